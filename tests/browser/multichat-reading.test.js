// Reading in the chat of examples/multichat: at the end of a room, further up, and in another room.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";
import { Person, World } from "./multichat-world.js";
import { stopAll, until } from "./processes.js";

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
const numbered = (count, first = 0) => Array.from({ length: count }, (_, number) => `message ${first + number}`);

/** A room of `count` messages, written by ann, that both have joined. `options` are those of bob's browser. */
async function reading(t, count, options, minutes) {
  const room = world.rooms.pop(), author = world.staff.pop();
  await world.fill(room, author, numbered(count), minutes);
  const ann = await enters(t, author, [room]);
  const bob = await enters(t, world.others.pop(), [room], options);
  return { ann, bob, room };
}

// Five messages at once; returns the last one. The application decides on their order.
async function burst(ann, room, name) {
  const texts = numbered(5).map((text) => `${name}, ${text}`);
  await ann.writes(room, texts);
  await until("ann sees all of them", async () => (await ann.seen(room)).filter((text) => texts.includes(text)).length === 5);
  return (await ann.seen(room)).at(-1);
}

// The second row in view stays where it is, to the pixel, while `change` runs.
async function staysPut(bob, room, change) {
  const { rows: [, row] } = await bob.view(room);
  await change(row.text);
  const now = (await bob.view(room)).rows.find(({ text }) => text === row.text);
  assert.ok(now && Math.abs(now.top - row.top) <= 1, `${row.text} was at ${row.top} and is at ${now?.top}`);
}

describe("a reader at the end of a room", { concurrency: 3 }, () => {
  it("has the newest messages in view: when they join, load the page again, write, and when five come at once", async (t) => {
    const { ann, bob, room } = await reading(t, 70);
    await bob.isAtEnd(room, "message 69");
    assert.ok((await bob.view(room)).screens > 2, "it is no more than two screens");
    await bob.page.reload();
    await bob.isIn(room);
    await bob.isAtEnd(room, "message 69");
    await bob.says(room, "my own");
    await bob.isAtEnd(room, "my own");
    for (const name of ["once", "twice", "thrice"]) await bob.isAtEnd(room, await burst(ann, room, name));
    assert.ok(await bob.newMessages(room).isHidden());
    await ann.isAtEnd(room, (await bob.seen(room)).at(-1));
  });

  it("stays there when the window changes, and when a message above is edited", async (t) => {
    const { ann, bob, room } = await reading(t, 40);
    for (const viewport of [{ width: 500, height: 700 }, { width: 500, height: 500 }, { width: 1500, height: 400 }, { width: 390, height: 844 }]) {
      await bob.page.setViewportSize(viewport);
      await bob.isAtEnd(room, "message 39");
    }
    await ann.message(room, "message 39").getByRole("button", { name: /^Edit/ }).click();
    await ann.page.getByLabel("Edit the message").fill("many words ".repeat(50).trim());
    await ann.page.keyboard.press("Enter");
    await bob.isAtEnd(room, "many words ".repeat(50).trim());
  });
});

describe("a reader who has scrolled up", { concurrency: 3 }, () => {
  it("is not moved by what comes, is told how much it is, and gets there by a button", async (t) => {
    const { ann, bob, room } = await reading(t, 70);
    await bob.isAtEnd(room, "message 69");
    await bob.scrolls(room, -600);
    let newest;
    await staysPut(bob, room, async () => {
      newest = await burst(ann, room, "news");
      await bob.newMessages(room).getByText("5 new messages").waitFor();
    });
    await bob.hasUnread(room, "5");
    await until("the title tells", async () => await bob.page.title() === "(5) MultiChat");
    await bob.newMessages(room).click();
    await bob.isAtEnd(room, newest);
    await bob.newMessages(room).waitFor({ state: "hidden" });
    await bob.hasUnread(room, "");
    assert.equal(await bob.page.title(), "MultiChat");
  });

  it("is not moved by edits and deletions above", async (t) => {
    const { ann, bob, room } = await reading(t, 70);
    await bob.scrolls(room, -400);
    await staysPut(bob, room, async (text) => {
      const above = Number(text.match(/\d+/)[0]) - 4; // not in view
      await ann.message(room, `message ${above}`).getByRole("button", { name: /^Edit/ }).click();
      await ann.page.getByLabel("Edit the message").fill("many words ".repeat(50).trim());
      await ann.page.keyboard.press("Enter");
      await bob.sees(room, "many words ".repeat(50).trim());
      await ann.message(room, `message ${above - 1}`).getByRole("button", { name: /^Delete/ }).click();
      await bob.seesNoLonger(room, `message ${above - 1}`);
    });
  });

  it("sees their own message at once, and those before it", async (t) => {
    const { ann, bob, room } = await reading(t, 70);
    await bob.scrolls(room, -600);
    await burst(ann, room, "news");
    await bob.says(room, "my own");
    await bob.isAtEnd(room, "my own");
    await bob.hasUnread(room, "");
  });

  it("is not told of muted and of deleted messages", async (t) => {
    const { ann, bob, room } = await reading(t, 70);
    await bob.scrolls(room, -600);
    await ann.writes(room, ["muted"], "muted");
    await ann.writes(room, ["taken back"]);
    await bob.newMessages(room).getByText("1 new message", { exact: true }).waitFor();
    await ann.message(room, "taken back").getByRole("button", { name: /^Delete/ }).click();
    await bob.newMessages(room).waitFor({ state: "hidden" });
    await bob.sees(room, "muted");
  });
});

describe("a connection that is lost", () => {
  const OUTAGES = {
    "and everything that was missed is in the log": () => {},
    "and so is the log": async () => {
      await until("all is published", () => world.hasPublished());
      await world.killServer();
      world.loseLog();
      await world.startServer();
    },
  };
  for (const [title, outage] of Object.entries(OUTAGES)) {
    it(`${title}: one reader is at the end again, another one who had scrolled up stays there`, async (t) => {
      const { ann, bob, room } = await reading(t, 70);
      const eve = await enters(t, world.others.pop(), [room]);
      await bob.scrolls(room, -600);
      let newest;
      await staysPut(bob, room, async () => {
        world.balancer.cut();
        await Promise.all([ann, bob, eve].map((person) => person.isReconnecting()));
        await bob.page.getByRole("alert").getByText("Not connected").waitFor(); // takes space
        const missed = numbered(5).map((text) => `missed, ${text}`);
        await ann.writes(room, missed);
        await outage();
        world.balancer.mend();
        await bob.newMessages(room).getByText("5 new messages").waitFor();
        await bob.page.getByRole("alert").waitFor({ state: "hidden" });
        newest = (await bob.seen(room)).at(-1);
        assert.ok(missed.includes(newest));
      });
      await eve.isAtEnd(room, newest);
    });
  }
});

describe("older messages", { concurrency: 3 }, () => {
  const goesUp = (bob, room) => bob.scrolls(room, -100_000);

  it("appear in order when the reader scrolls up, and move nothing", async (t) => {
    const { bob, room } = await reading(t, 130);
    assert.equal((await bob.seen(room)).length, 50);
    for (const count of [100, 130]) {
      await goesUp(bob, room);
      await until(`${count} messages`, async () => (await bob.seen(room)).length === count);
      const { rows } = await bob.view(room);
      assert.ok(Number(rows[0].text.match(/\d+/)[0]) >= 130 - count + 25, `what was in view is gone: ${rows[0].text}`);
    }
    assert.deepEqual(await bob.seen(room), numbered(130));
    await bob.panel(room).getByRole("button", { name: "Older messages" }).waitFor({ state: "hidden" });
  });

  it("are as they are by now, though they change while they are fetched", async (t) => {
    const { ann, bob, room } = await reading(t, 70);
    await goesUp(ann, room);
    await ann.sees(room, "message 2");
    await bob.page.route("**/messages/?before=*", async (route) => {
      const response = await route.fetch();
      await ann.message(room, "message 1").getByRole("button", { name: /^Delete/ }).click();
      await ann.message(room, "message 2").getByRole("button", { name: /^Edit/ }).click();
      await ann.page.getByLabel("Edit the message").fill("edited");
      await ann.page.keyboard.press("Enter");
      await ann.says(room, "after that");
      await bob.sees(room, "after that");
      await route.fulfill({ response });
    }, { times: 1 });
    await goesUp(bob, room);
    await bob.sees(room, "message 0");
    assert.deepEqual((await bob.seen(room)).slice(0, 3), ["message 0", "edited", "message 3"]);
  });

  it("are fetched again by the button after a failure", async (t) => {
    const { bob, room } = await reading(t, 70);
    let asked = 0;
    await bob.page.route("**/messages/?before=*", async (route) => { asked += 1; await route.abort(); }, { times: 1 });
    await goesUp(bob, room);
    await bob.seesProblem("The application cannot be reached.");
    const button = bob.panel(room).getByRole("button", { name: "Older messages" });
    await button.focus();
    await bob.page.keyboard.press("Enter");
    await bob.sees(room, "message 0");
    assert.equal(asked, 1);
    assert.deepEqual(await bob.seen(room), numbered(70));
  });

  it("fill a window that is larger than the newest messages", async (t) => {
    const { bob, room } = await reading(t, 200, { viewport: { width: 1280, height: 6000 } });
    await bob.isAtEnd(room, "message 199");
    await until("it is full", async () => (await bob.view(room)).screens > 1);
  });

  it("are shown up to a limit, and the page says so", async (t) => {
    const { bob, room } = await reading(t, 1100);
    const limit = bob.panel(room).getByText("Older messages than these are not shown.");
    await until("the limit is reached", async () => {
      await bob.panel(room).locator(".log").evaluate((log) => { log.scrollTop = 0; });
      return limit.isVisible();
    });
    const seen = await bob.seen(room);
    assert.ok(seen.length >= 900 && seen.length <= 1000, `${seen.length} messages`);
    assert.deepEqual(seen, numbered(1100).slice(-seen.length));
  });
});

describe("a reader in another room", { concurrency: 3 }, () => {
  it("sees how many messages have come in each room, also after the page was loaded again", async (t) => {
    const { ann, bob, room } = await reading(t, 3, { viewport: { width: 390, height: 844 } }); // one room at a time
    const other = world.rooms.pop();
    await bob.joins(other);
    await bob.panel(room).waitFor({ state: "hidden" });
    await burst(ann, room, "news");
    await bob.hasUnread(room, "5");
    await bob.entry(room).getByRole("button", { name: `Show ${room.name}, 5 unread` }).waitFor();
    await bob.hasUnread(other, "");
    await bob.page.reload();
    await bob.panel(other).waitFor();
    await bob.hasUnread(room, "5");
    await bob.entry(room).getByRole("button").click();
    await bob.panel(other).waitFor({ state: "hidden" });
    await bob.isAtEnd(room, (await ann.seen(room)).at(-1));
    await bob.hasUnread(room, "");
  });

  it("or on another tab sees the number in the title", async (t) => {
    const { ann, bob, room } = await reading(t, 3);
    const becomes = (state) => bob.page.evaluate((state) => {
      Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, state);
    await becomes("hidden");
    await burst(ann, room, "news");
    await until("the title tells", async () => await bob.page.title() === "(5) MultiChat");
    await becomes("visible");
    await until("it is read", async () => await bob.page.title() === "MultiChat");
  });
});

describe("a message", { concurrency: 3 }, () => {
  // Where it is about noon, so that no test runs into the next day.
  const hours = 12 - new Date().getUTCHours();
  const atNoon = { timezoneId: `Etc/GMT${hours > 0 ? "-" : "+"}${Math.abs(hours)}`, locale: "en-GB" };

  it("stands under its day, and the last of a day takes the day with it", async (t) => {
    const { ann, bob, room } = await reading(t, 5, atNoon, 24 * 60);
    const days = () => bob.panel(room).locator(".day h3").allTextContents();
    const four = await days();
    assert.equal(four.length, 5);
    assert.deepEqual(four.slice(-2), ["Yesterday", "Today"]);
    assert.match(four[0], /^[A-Z][a-z]+day,? \d+ [A-Z][a-z]+/);
    await ann.message(room, "message 3").getByRole("button", { name: /^Delete/ }).click();
    await bob.seesNoLonger(room, "message 3");
    assert.deepEqual(await days(), four.filter((name) => name !== "Yesterday"));
    await bob.says(room, "today");
    assert.equal((await days()).length, 4);
    assert.match(await bob.message(room, "today").locator("time").textContent(), /^\d\d:\d\d$/);
  });

  it("of another kind looks different to everybody: warnings, by the staff only, and muted ones", async (t) => {
    const { ann, bob, room } = await reading(t, 1);
    const kinds = (person) => person.page.getByLabel(`Kind of message for ${room.name}`);
    assert.deepEqual(await kinds(bob).locator("option:not([disabled])").allTextContents(), ["Normal", "Muted"]);
    await kinds(ann).selectOption("Warning");
    await ann.says(room, "the lift is out of order");
    assert.equal(await kinds(ann).inputValue(), "normal");
    await bob.message(room, "the lift is out of order").getByText("Warning", { exact: true }).waitFor();
    await kinds(bob).selectOption("Muted");
    await bob.says(room, "never mind");
    await ann.message(room, "never mind").and(ann.page.locator(".muted")).waitFor();
  });

  it("is announced to screen readers, older ones are not", async (t) => {
    const { ann, bob, room } = await reading(t, 70);
    await bob.scrolls(room, -100_000);
    await bob.sees(room, "message 0");
    await ann.writes(room, ["listen"]);
    const news = bob.page.getByRole("log", { name: "New messages" });
    await news.getByText("listen").waitFor({ state: "attached" });
    assert.deepEqual(await news.locator("p").allTextContents(), [`${room.name}, ${ann.name}: listen`]);
    assert.equal(await bob.panel(room).locator(".log").getAttribute("aria-live"), "off");
  });
});
