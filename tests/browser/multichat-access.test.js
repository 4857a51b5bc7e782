// The chat of examples/multichat without a mouse, for screen readers, in both colour schemes, in a narrow window and in large letters.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";
import { Person, World } from "./multichat-world.js";
import { stopAll, until } from "./processes.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core"), "utf8");

let world, browser;

before(async () => {
  world = await World.start(process.argv[2]);
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
});
after(async () => {
  await browser?.close();
  await world?.end();
  await stopAll();
});

const enters = (t, user, rooms, options) => Person.enters(t, browser, world, user, rooms, options);

// What axe finds wrong, in short.
async function findings(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`);
}

/** Presses `key` until the control of this name has the focus, which must be seen at every step. */
async function goTo(page, name, key = "Tab") {
  for (let presses = 0; presses < 100; presses++) {
    await page.keyboard.press(key);
    const focused = await page.evaluate(() => {
      const element = document.activeElement, { outlineStyle, outlineWidth } = getComputedStyle(element);
      const label = element.ariaLabel || element.labels?.[0]?.textContent || element.textContent;
      return { name: label.trim(), isSeen: element === document.body || (outlineStyle !== "none" && parseFloat(outlineWidth) >= 2) };
    });
    assert.ok(focused.isSeen, `the focus cannot be seen on ${focused.name}`);
    if (focused.name.startsWith(name)) return;
  }
  assert.fail(`there is no way to ${name}`);
}

const hasFocus = (locator) => until("it has the focus", () => locator.evaluate((element) => element === document.activeElement));

describe("the page", { concurrency: 3 }, () => {
  it("is used by the keyboard alone", async (t) => {
    const alice = await enters(t, { name: "alice" }), { page } = alice, lobby = { name: "Lobby", slug: "lobby" };
    await hasFocus(page.getByLabel("Username"));
    await page.keyboard.type("alice");
    await goTo(page, "Password");
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await alice.seesProblem("Please enter a correct username and password.");
    await hasFocus(page.getByLabel("Username")); // or it would be given it while the password is typed
    await goTo(page, "Password");
    await page.keyboard.type("alice");
    await page.keyboard.press("Enter");
    await alice.isConnected();

    await goTo(page, "Join Lobby");
    await page.keyboard.press("Enter");
    await alice.isIn(lobby);
    const input = page.getByLabel("Message to Lobby");
    await hasFocus(input);
    await page.keyboard.type("helo");
    await page.keyboard.press("Enter");
    await alice.sees(lobby, "helo");

    await goTo(page, "Edit “helo”", "Shift+Tab");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Escape");
    await hasFocus(page.getByRole("button", { name: "Edit “helo”" }));
    await page.keyboard.press("Enter");
    await page.keyboard.press("End");
    await page.keyboard.type(", all");
    await page.keyboard.press("Enter");
    await alice.sees(lobby, "helo, all");
    await hasFocus(page.getByRole("button", { name: "Edit “helo, all”" }));
    await goTo(page, "Delete “helo, all”");
    await page.keyboard.press("Enter");
    await alice.seesNoLonger(lobby, "helo, all");
    await hasFocus(input);

    await goTo(page, "Leave Lobby", "Shift+Tab");
    await page.keyboard.press("Enter");
    await alice.isNotIn(lobby);
    await hasFocus(page.getByRole("button", { name: "Join Lobby" }));
    await goTo(page, "Log out");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Log in" }).waitFor();
  });

  for (const colorScheme of ["light", "dark"]) {
    it(`has nothing for axe to find, in the ${colorScheme} scheme`, async (t) => {
      const door = await enters(t, { name: "" }, [], { colorScheme });
      await door.page.getByLabel("Username").fill("nobody");
      await door.page.getByLabel("Password").fill("nothing");
      await door.page.keyboard.press("Enter");
      await door.page.getByRole("alert").waitFor();
      assert.deepEqual(await findings(door.page), []);

      const room = world.rooms.pop();
      const ann = await enters(t, world.staff.pop(), [], { colorScheme }), bob = await enters(t, world.others.pop(), [room], { colorScheme });
      assert.deepEqual(await findings(bob.page), []);
      assert.deepEqual(await findings(ann.page), []); // no room yet
      await ann.joins(room);
      await ann.says(room, "a message");
      await bob.sees(room, "a message");
      await bob.says(room, "another");
      await ann.sees(room, "another");
      await ann.message(room, "a message").getByRole("button", { name: /^Edit/ }).click();
      await ann.page.getByLabel("Edit the message").fill("an edited message");
      await ann.page.keyboard.press("Enter");
      await bob.message(room, "an edited message").getByText("edited", { exact: true }).waitFor();
      await ann.message(room, "an edited message").getByRole("button", { name: /^Edit/ }).click();
      for (const person of [ann, bob]) assert.deepEqual(await findings(person.page), []);
    });
  }

  for (const { title, viewport, size } of [
    { title: "320 pixels of width", viewport: { width: 320, height: 640 }, size: "100%" },
    { title: "letters of twice the size", viewport: { width: 1280, height: 800 }, size: "200%" },
  ]) {
    it(`fits ${title}`, async (t) => {
      const room = world.rooms.pop();
      const isCutOff = (page) => page.evaluate((size) => {
        document.documentElement.style.fontSize = size;
        // What only screen readers are to have, and what is shown in part with all of it in a tooltip, is not cut off.
        const isMeant = (element) => element.closest("#rooms-title, #online-title, .unseen") || element.title === element.textContent;
        const isWider = (element) => element.scrollWidth > element.clientWidth + 1 && !isMeant(element);
        return [document.documentElement, ...document.querySelectorAll("h1, h2, p, a, button, label, li, .log")].filter(isWider).map(({ outerHTML }) => outerHTML.slice(0, 200));
      }, size);
      const door = await enters(t, { name: "" }, [], { viewport });
      assert.deepEqual(await isCutOff(door.page), []);
      const bob = await enters(t, world.others.pop(), [room], { viewport });
      await bob.says(room, `a word of many letters: ${"x".repeat(200)}`);
      await bob.says(room, "another message");
      await bob.message(room, "another message").getByRole("button", { name: /^Edit/ }).click();
      await bob.page.getByLabel("Edit the message").waitFor();
      assert.deepEqual(await isCutOff(bob.page), []);
    });
  }
});

// One at a time: the balancer is everybody's.
describe("the page with all that may be on it", () => {
  for (const colorScheme of ["light", "dark"]) {
    it(`messages of all kinds, new ones, older ones and no connection, has nothing for axe to find in the ${colorScheme} scheme`, async (t) => {
      const room = world.rooms.pop(), author = world.staff.pop();
      await world.fill(room, author, Array.from({ length: 70 }, (_, number) => `message ${number}`));
      const ann = await enters(t, author, [room], { colorScheme }), bob = await enters(t, world.others.pop(), [room], { colorScheme });
      for (const kind of ["warning", "muted"]) await ann.writes(room, [`a ${kind}`], kind);
      await bob.isAtEnd(room, "a muted");
      for (const person of [ann, bob]) assert.deepEqual(await findings(person.page), []);
      await bob.page.route("**/messages/?before=*", (route) => route.abort());
      await bob.scrolls(room, -100_000);
      await ann.writes(room, ["news"]);
      await bob.newMessages(room).waitFor();
      await bob.seesProblem("The application cannot be reached.");
      await bob.panel(room).getByRole("button", { name: "Older messages" }).waitFor();
      assert.deepEqual(await findings(bob.page), []);
      t.after(() => world.balancer.mend());
      world.balancer.cut();
      await bob.page.getByRole("alert").getByText("Not connected").waitFor();
      assert.deepEqual(await findings(bob.page), []);
    });
  }
});
