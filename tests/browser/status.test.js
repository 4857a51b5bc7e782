// The status page of the internal listener, as an operator uses it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";
import { World } from "./status-world.js";
import { stopAll, until } from "./processes.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const BINARY = process.argv[2];
// The README's picture is written to this file, if it is set; a palette makes it a third as large:
// python3 -c 'from PIL import Image; Image.open("FILE").convert("RGB").quantize(256, dither=0).save("docs/status.png", optimize=True)'
const SCREENSHOT = process.env.SCREENSHOT;

let browser;

before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
});
after(async () => {
  await browser?.close();
  await stopAll();
});

// Opens the page of `world` until the end of test `t`.
async function open(t, world, { colorScheme = "light", width = 1200, height = 900, prepare } = {}) {
  const context = await browser.newContext({ colorScheme, viewport: { width, height } });
  t.after(() => context.close());
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => { if (/Content Security Policy/.test(message.text())) page.problems.push(message.text()); });
  await prepare?.(page);
  await page.goto(world.page);
  return page;
}

const says = (page, text) => page.locator("#state").getByText(text).waitFor();
const field = (page, panel, name) => page.getByRole("region", { name: panel }).locator("dl div").filter({ has: page.getByText(name, { exact: true }) }).locator("dd");
const total = (page, name) => page.locator("#totals div").filter({ has: page.getByText(name, { exact: true }) }).locator("dd");
const shows = (what, place, text) => until(`${what} is ${text}`, async () => (await place.textContent()).match(text));
const rows = (page, id) => page.locator(`#${id} tbody tr`);

async function looksUp(page, text) {
  await page.getByLabel("User or connection").fill(text);
  await page.keyboard.press("Enter");
}

async function explains(page, room) {
  await page.getByLabel("May they join this room?").fill(typeof room === "string" ? room : JSON.stringify(room));
  await page.keyboard.press("Enter");
}

const confirms = (page, name) => page.getByRole("dialog").getByRole("button", { name }).click();

async function violations(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`).join("; ")}`);
}

// Each test has a server of its own, so that its numbers are known.
const status = (name, test, options = {}) => it(name, options, async (t) => {
  const world = await World.start(BINARY);
  t.after(() => world.stop());
  await test(t, world);
});

describe("the status page", { concurrency: 3 }, () => {
  status("shows the numbers, and they follow what happens", async (t, world) => {
    const page = await open(t, world);
    await says(page, "Ready");
    await page.getByText(/^Running since .* As of /).waitFor();
    assert.match(await page.getByRole("heading", { level: 1 }).textContent(), /^high-templar \d+\.\d+\.\d+$/);
    await page.getByText("Nothing waits for anybody.").waitFor();
    await page.getByText("There are none.").waitFor();
    assert.equal(await total(page, "Connections").textContent(), "0");

    const ann = await world.client("ann");
    await ann.subscribes("1", { project: 7 });
    await ann.subscribes("2", { target: "news" });
    await shows("connections", total(page, "Connections"), /^1$/);
    await shows("subscriptions", total(page, "Subscriptions"), /^2$/);
    await shows("rooms", total(page, "Rooms"), /^2$/);
    await shows("opened", field(page, "Connections", "Opened"), /^1$/);
    await shows("bootstraps", field(page, "API", "Bootstraps"), /^ok: 1$/);
    assert.equal(await field(page, "Broker", "Kind").textContent(), "embedded");
    assert.equal(await field(page, "Lag", "In hand").textContent(), "nothing");
    assert.equal(await page.getByRole("region", { name: "Channelstream" }).count(), 0);

    const publishing = setInterval(() => world.publishes({ project: 7 }, "hello").catch(() => {}), 50);
    t.after(() => clearInterval(publishing));
    for (const name of ["Triggers", "Publications sent"]) {
      const rate = page.locator("#rates div").filter({ has: page.getByText(name, { exact: true }) });
      await shows(name, rate.locator(".number"), /^[1-9][\d.]*\/s$/);
      await page.getByRole("img", { name: new RegExp(`^${name}: now [1-9].*, at most [1-9].* within two minutes$`) }).waitFor();
      await until("there is a line", async () => (await rate.locator("polyline").getAttribute("points")).split(" ").length > 2);
    }
    await shows("last delivery", field(page, "Lag", "Last delivery"), /^[\d.]+ m?s ago$/);
    await shows("fan-out", field(page, "Lag", "Fan-out of a batch"), /^[\d.]+ ms$/);
    await shows("busy", field(page, "Lag", "Dispatch busy"), /^\d+ %$/);
    ann.leaves();
    await shows("connections", total(page, "Connections"), /^0$/);
    assert.deepEqual(page.problems, []);
  });

  status("shows who is slow, and leads to them", async (t, world) => {
    await world.client("ann");
    const slow = await world.slowClient("sam", { project: "video" }, 2_000_000, "192.0.2.99");
    const page = await open(t, world);
    const row = rows(page, "slow").first();
    await row.getByText(/^\d+(\.\d)? MiB \(\d+ %\)$/).waitFor();
    await row.getByText("sam", { exact: true }).waitFor();
    await row.getByText("192.0.2.99", { exact: true }).waitFor();
    assert.equal(await rows(page, "slow").count(), 1);
    // It stays focused while the page goes on.
    const button = row.getByRole("button", { name: slow.welcome.connection });
    await button.focus();
    const asOf = await page.locator("#since").textContent();
    await until("the page has gone on", async () => await page.locator("#since").textContent() !== asOf);
    await page.keyboard.press("Enter");
    await page.getByText("1 connection on this instance.").waitFor();
    assert.equal(await rows(page, "connections").count(), 1);
    await until("it is closed as too slow", async () => {
      await world.publishes({ project: "video" }, "x".repeat(900_000));
      return /^1 connection closed as too slow, [1-9]\d* publications failed\.$/.test(await page.locator("#too-slow").locator("..").textContent());
    });
    await page.getByText("Nothing waits for anybody.").waitFor();
    await page.getByText("0 connections on this instance.").waitFor();
  });

  status("shows the largest rooms", async (t, world) => {
    for (const user of ["ann", "bob", "eve"]) {
      const client = await world.client(user);
      await client.subscribes("1", { target: "news" });
      if (user === "ann") await client.subscribes("2", { project: "<b>7</b>" });
    }
    const page = await open(t, world);
    await until("the rooms are there", async () => await rows(page, "rooms").count() === 2);
    assert.deepEqual(await rows(page, "rooms").allTextContents(), ['{"target":"news"}3', '{"project":"<b>7</b>"}1']);
  });

  status("says that the API is away", async (t, world) => {
    const page = await open(t, world);
    await says(page, "Ready");
    await world.stopApi();
    for (let number = 0; number < 12; number += 1) assert.equal((await world.client(`user-${number}`)).welcome.is_authorized, false);
    await shows("bootstraps", field(page, "API", "Bootstraps"), /unreachable: \d/);
    await shows("refused", field(page, "Connections", "Refused"), /backend: \d/);
    await shows("pauses", field(page, "API", "Pauses"), /^[1-9]/);
    await says(page, "Ready"); // who is connected is served
  });

  status("says that the server does not answer, and goes on when it is back", async (t, world) => {
    await world.client("ann");
    const page = await open(t, world);
    await shows("connections", total(page, "Connections"), /^1$/);
    await world.killServer();
    await says(page, /^No answer from the server since .*: these are its last numbers \(it cannot be reached\)$/);
    assert.equal(await total(page, "Connections").textContent(), "1");
    await world.startServer();
    await says(page, /^Ready$/);
    await shows("connections", total(page, "Connections"), /^0$/);
    assert.deepEqual(page.problems, []);
  });

  status("asks nothing while nobody looks", async (t, world) => {
    const page = await open(t, world);
    await says(page, "Ready");
    let asked = 0;
    page.on("request", () => { asked += 1; });
    const look = (isHidden) => page.evaluate((isHidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, value: isHidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isHidden);
    await until("it asks", () => asked > 0);
    await look(true);
    asked = 0;
    await page.waitForTimeout(5000); // that nothing happens meanwhile is what is tested
    assert.equal(asked, 0);
    await look(false);
    await until("it asks again", () => asked > 0, 1);
  });

  status("looks up a user's connections and explains why they may or may not join a room", async (t, world) => {
    world.rooms.set("ann", [{ project: 7, part: "*" }, { target: "news" }]);
    const first = await world.client("ann", "192.0.2.1"), second = await world.client("ann", "192.0.2.2");
    await first.subscribes("a", { target: "news" });
    await world.client("bob");
    const page = await open(t, world);
    await says(page, "Ready");
    await looksUp(page, "ann");
    await page.getByText("2 connections of user ann on this instance.").waitFor();
    const cells = await rows(page, "connections").first().locator("td").allTextContents();
    assert.deepEqual(cells.slice(0, 3), [first.welcome.connection, "ann", "192.0.2.1"]);
    assert.deepEqual(cells.slice(4, 8), ["websocket, high-templar.v4", "1", "2", "0 B"]);

    await explains(page, { project: 8, part: "door" });
    const explained = page.locator("#explained li");
    await until("both are explained", async () => await explained.count() === 2);
    assert.match(await explained.first().textContent(), new RegExp(`^${first.welcome.connection} may not join: the nearest allowed room is .*project.*another value`));
    await explains(page, { target: "news" });
    await explained.first().getByText("may join", { exact: true }).waitFor();
    assert.match(await explained.first().textContent(), /reaches its subscriptions "?a"?\.$/);
    await explains(page, "nonsense");
    await page.getByText(/not explained/).first().waitFor();
    assert.match(await explained.first().textContent(), /room must be a JSON object/);

    await looksUp(page, second.welcome.connection);
    await page.getByText("1 connection on this instance.").waitFor();
    assert.equal(await rows(page, "connections").first().locator("td").first().textContent(), second.welcome.connection);
    await looksUp(page, "nobody");
    await page.getByText("0 connections of user nobody on this instance.").waitFor();
    assert.equal(await rows(page, "connections").count(), 0);
    assert.deepEqual(page.problems, []);
  });

  status("disconnects one connection, or a user, when it is confirmed", async (t, world) => {
    const [one, other, bob] = [await world.client("ann"), await world.client("ann"), await world.client("bob")];
    const page = await open(t, world);
    await says(page, "Ready");
    await looksUp(page, "ann");
    const button = page.getByRole("button", { name: `Disconnect connection ${one.welcome.connection.slice(0, 8)}` });
    await button.click();
    await page.getByRole("dialog", { name: /^Disconnect connection / }).waitFor();
    await page.keyboard.press("Enter"); // on what is the default: not to
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    await button.click();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    await shows("connections", total(page, "Connections"), /^3$/);

    await button.click();
    await confirms(page, "Disconnect");
    assert.equal(await one.closed, 3501);
    await page.getByText(/^Disconnect connection .*: confirmed by the broker/).waitFor();
    await page.getByText("1 connection of user ann on this instance.").waitFor();

    await page.getByRole("button", { name: "Disconnect all connections of user ann" }).click();
    await confirms(page, "Disconnect");
    assert.equal(await other.closed, 3501);
    await page.getByText("0 connections of user ann on this instance.").waitFor();
    await shows("closed", field(page, "Connections", "Closed"), /disconnected: 2/);
    await bob.subscribes("1", { target: "news" }); // bob is still there
  });

  status("has a user's permissions asked for again", async (t, world) => {
    const ann = await world.client("ann");
    await ann.subscribes("1", { project: 7 });
    const page = await open(t, world);
    await says(page, "Ready");
    await looksUp(page, "ann");
    world.rooms.set("ann", [{ target: "news" }]);
    await page.getByRole("button", { name: "Reauthorize all connections of user ann" }).click();
    await confirms(page, "Reauthorize");
    assert.equal((await ann.gets("unsubscribed")).requestId, "1");
  });

  status("tells when nothing came of it", async (t, world) => {
    await world.client("ann");
    const page = await open(t, world);
    await says(page, "Ready");
    await looksUp(page, "ann");
    await page.getByRole("button", { name: "Disconnect all connections of user ann" }).click();
    await world.killServer();
    await confirms(page, "Disconnect");
    await page.getByText("Disconnect all connections of user ann: not done: it cannot be reached.").waitFor();
    await world.startServer();
  });

  status("shows what others have named as text", async (t, world) => {
    const name = "<img src=x onerror=\"window.wasRun=1\">";
    const client = await world.client(name);
    await client.subscribes("1", { project: name });
    const page = await open(t, world);
    await page.locator("#rooms").getByText(JSON.stringify({ project: name })).waitFor();
    await looksUp(page, name);
    await page.getByText(`1 connection of user ${name} on this instance.`).waitFor();
    await explains(page, { other: name });
    await page.locator("#explained li").waitFor();
    await page.getByRole("button", { name: "Disconnect all" }).click();
    await page.getByRole("dialog").getByText(`Disconnect all connections of user ${name}?`).waitFor();
    assert.deepEqual([await page.locator("img").count(), await page.evaluate(() => window.wasRun)], [0, undefined]);
    assert.deepEqual(page.problems, []);
  });

  for (const colorScheme of ["light", "dark"]) {
    for (const width of [320, 1200]) {
      status(`can be read by everybody, ${width} px wide and ${colorScheme}`, async (t, world) => {
        for (const user of ["ann", "bob"]) await (await world.client(user)).subscribes("1", { project: 7, text: "a rather long room ".repeat(5) });
        await world.slowClient("sam", { project: "video" }, 1_000_000);
        const page = await open(t, world, { colorScheme, width, height: 800 });
        await says(page, "Ready");
        await rows(page, "slow").first().waitFor();
        await rows(page, "rooms").first().waitFor();
        await looksUp(page, "ann");
        await rows(page, "connections").first().waitFor();
        await explains(page, { project: 8 });
        await page.locator("#explained li").waitFor();
        await page.getByText("No answer").waitFor({ state: "detached" });
        assert.deepEqual(await violations(page), []);
        assert.equal(await page.evaluate(() => document.scrollingElement.scrollWidth), width);
        const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        assert.equal(Number(ground.match(/\d+/)[0]) > 127, colorScheme === "light", ground);
        await page.getByRole("button", { name: "Disconnect all connections of user ann" }).click();
        assert.deepEqual(await violations(page), []);
        await page.keyboard.press("Escape");
        await world.killServer();
        await says(page, "No answer from the server");
        assert.deepEqual(await violations(page), []);
        await world.startServer();
      });
    }
  }

  status("is pictured in the README", picture, { skip: !SCREENSHOT });
});

describe("the status page with a token", () => {
  let world;
  before(async () => { world = await World.start(BINARY, { INTERNAL_TOKEN: "open sesame" }); });
  after(() => world.stop());

  it("asks for it, and keeps it for itself", async (t) => {
    await world.client("ann");
    for (const colorScheme of ["light", "dark"]) {
      const page = await open(t, world, { colorScheme, width: 320 });
      const asked = [];
      page.on("request", (request) => asked.push(request.url()));
      await says(page, "This page needs a token");
      assert.equal(await page.locator("#numbers").isVisible(), false);
      assert.deepEqual(await violations(page), []);
      const input = page.getByLabel("Token", { exact: true });
      assert.deepEqual([await input.getAttribute("type"), await input.evaluate((it) => it === document.activeElement)], ["password", true]);
      await input.fill("open barley");
      await page.keyboard.press("Enter");
      await page.getByText("The server does not take this token.").waitFor();
      assert.deepEqual(await violations(page), []);
      await input.fill("open sesame");
      await page.keyboard.press("Enter");
      await says(page, "Ready");
      await shows("connections", total(page, "Connections"), /^1$/);
      assert.equal(await input.isVisible(), false);
      const kept = await page.evaluate(() => [location.href, document.cookie, localStorage.length, sessionStorage.length, document.getElementById("token").value]);
      assert.deepEqual(kept, [world.page, "", 0, 0, ""]);
      assert.ok(asked.length > 0 && asked.every((url) => !url.includes("sesame")), asked.join());
      await page.reload();
      await says(page, "This page needs a token");
      assert.deepEqual(page.problems, []);
    }
  });

  it("acts with it", async (t) => {
    const bob = await world.client("bob");
    const page = await open(t, world);
    await page.getByLabel("Token", { exact: true }).fill("open sesame");
    await page.keyboard.press("Enter");
    await says(page, "Ready");
    await looksUp(page, "bob");
    await page.getByRole("button", { name: "Disconnect all connections of user bob" }).click();
    await confirms(page, "Disconnect");
    assert.equal(await bob.closed, 3501);
  });
});

// A day like any other: some rooms, those in them, and one on a slow line.
async function picture(t, world) {
  const names = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"];
  const clients = [];
  for (let number = 0; number < 48; number += 1) {
    const user = names[number % names.length];
    const client = await world.client(user, `198.51.100.${10 + number % names.length}`);
    await client.subscribes("news", { target: "news" });
    await client.subscribes("project", { project: 7 + number % 2 });
    if (number % 3 === 0) await client.subscribes("board", { project: 7, board: "*" });
    clients.push(client);
  }
  const page = await open(t, world, { width: 1200, height: 1200 });
  let isOver = false;
  const publishing = (async () => {
    for (let number = 0; !isOver; number += 1) {
      const triggers = 6 + Math.round(5 * Math.sin(number / 12)) + number % 3;
      for (let at = 0; at < triggers; at += 1) await world.publishes({ project: 7 + at % 2 }, { number });
      clients[number % clients.length].says({ type: "ping" });
      await page.waitForTimeout(150);
    }
  })();
  await page.waitForTimeout(110_000); // so that there is something to be seen of the last two minutes
  await world.slowClient("mallory", { project: "video" }, 3_000_000, "203.0.113.42");
  await rows(page, "slow").first().waitFor();
  await looksUp(page, "mallory");
  await rows(page, "connections").first().waitFor();
  await explains(page, { project: 12, part: "roof" });
  await page.locator("#explained li").first().waitFor();
  await page.evaluate(() => { document.activeElement.blur(); });
  await page.screenshot({ path: SCREENSHOT, fullPage: true });
  isOver = true;
  await publishing;
}
