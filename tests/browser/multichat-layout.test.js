// The chat of examples/multichat in windows of three sizes, with one room and with several, connected and not.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";
import { Person, World } from "./multichat-world.js";
import { stopAll, until } from "./processes.js";

const SIZES = {
  phone: { viewport: { width: 390, height: 844 }, inView: [1, 1, 1, 1] },
  medium: { viewport: { width: 900, height: 700 }, inView: [1, 2, 2, 2] },
  wide: { viewport: { width: 1440, height: 900 }, inView: [1, 2, 3, 6] },
};
const COUNTS = [1, 2, 3, 7];

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

/** The rooms in view, how much of the space for them they fill, and what is outside the window or of it. */
const layout = (person) => person.page.evaluate(() => {
  const main = document.querySelector("main").getBoundingClientRect();
  const panels = [...document.querySelectorAll(".panel")].filter((panel) => panel.checkVisibility());
  const boxes = panels.map((panel) => panel.getBoundingClientRect());
  const isOutside = (element) => {
    const { top, left, bottom, right } = element.getBoundingClientRect();
    return top < 0 || left < 0 || bottom > innerHeight + 1 || right > innerWidth + 1;
  };
  return {
    names: panels.map((panel) => panel.querySelector("h2").textContent),
    filled: boxes.reduce((sum, { width, height }) => sum + width * height, 0) / (main.width * main.height),
    mainEnds: [innerWidth - main.right, innerHeight - main.bottom],
    outside: panels.flatMap((panel) => [...panel.querySelectorAll("h2, .leave, .log, .say, .say input, .say button")]).filter(isOutside).map(({ outerHTML }) => outerHTML),
    logs: panels.map((panel) => panel.querySelector(".log").clientHeight),
    scrolls: document.documentElement.scrollHeight > innerHeight || document.documentElement.scrollWidth > innerWidth,
  };
});

function isFilled({ filled, mainEnds, outside, logs, scrolls }) {
  assert.ok(filled > 0.9 && filled <= 1.001, `${filled} of the space is filled`);
  assert.deepEqual({ mainEnds, outside, scrolls }, { mainEnds: [0, 0], outside: [], scrolls: false });
  for (const log of logs) assert.ok(log > 120, `a log has ${log} pixels only`);
}

describe("a window", { concurrency: 3 }, () => {
  for (const [name, { viewport, inView }] of Object.entries(SIZES)) {
    it(`that is ${name} is filled by 1, 2, 3 and 7 rooms, the most recently used ones`, async (t) => {
      const rooms = world.rooms.splice(0, 7);
      const bob = await enters(t, world.others.pop(), [], { viewport });
      await bob.page.getByText("You are not in any room.").waitFor();
      let joined = 0;
      for (const [index, count] of COUNTS.entries()) {
        while (joined < count) await bob.joins(rooms[joined++]);
        await bob.page.getByText("You are not in any room.").waitFor({ state: "hidden" });
        const now = await layout(bob);
        isFilled(now);
        assert.deepEqual(now.names, rooms.slice(0, count).slice(-inView[index]).map((room) => room.name));
      }
      if (inView.at(-1) < 7) {
        await bob.entry(rooms[0]).getByRole("button").click();
        await bob.panel(rooms[0]).waitFor();
        const now = await layout(bob);
        isFilled(now);
        assert.equal(now.names.length, inView.at(-1));
        assert.equal(await bob.entry(rooms[0]).getByRole("button").getAttribute("aria-current"), "true");
        await until("one may write there at once", () => bob.page.getByLabel(`Message to ${rooms[0].name}`, { exact: true }).evaluate((input) => input === document.activeElement));
      }
      const before = (await layout(bob)).names;
      await bob.page.reload();
      for (const room of rooms.filter(({ name }) => before.includes(name))) await bob.panel(room).waitFor();
      await until("the same rooms are in view", async () => JSON.stringify((await layout(bob)).names) === JSON.stringify(before));
    });
  }

  it("of a new size is filled by as many rooms as fit, and the one in use stays", async (t) => {
    const rooms = world.rooms.splice(0, 3);
    const bob = await enters(t, world.others.pop(), rooms, SIZES.wide);
    await bob.page.getByLabel(`Message to ${rooms[1].name}`, { exact: true }).focus();
    for (const [size, count] of [["medium", 2], ["phone", 1], ["wide", 3]]) {
      await bob.page.setViewportSize(SIZES[size].viewport);
      await until(`${count} rooms are in view`, async () => (await layout(bob)).names.length === count);
      const now = await layout(bob);
      isFilled(now);
      assert.ok(now.names.includes(rooms[1].name));
    }
  });

  it("lists a room that the user joins on another page, and does not put it in view", async (t) => {
    const [room, other] = world.rooms.splice(0, 2), user = world.others.pop();
    const bob = await enters(t, user, [room], SIZES.phone), again = await enters(t, user);
    await again.joins(other);
    await bob.entry(other).getByRole("button", { name: `Show ${other.name}` }).waitFor();
    assert.deepEqual((await layout(bob)).names, [room.name]);
  });
});

describe("a page that is not connected", () => {
  for (const [name, { viewport }] of Object.entries(SIZES)) {
    it(`says so in a banner across the window that is ${name}, until it is connected again`, async (t) => {
      const rooms = world.rooms.splice(0, 3);
      const bob = await enters(t, world.others.pop(), rooms, { viewport });
      const banner = bob.page.getByRole("alert");
      assert.ok(await banner.isHidden());
      const before = (await layout(bob)).names;
      t.after(() => world.balancer.mend());
      world.balancer.cut();
      await banner.getByText("Not connected. Reconnecting…").waitFor();
      const box = await banner.boundingBox();
      assert.ok(box.width === viewport.width && box.height >= 32, JSON.stringify(box));
      const now = await layout(bob);
      isFilled(now);
      assert.deepEqual(now.names, before); // the banner hides no room
      world.balancer.mend();
      await banner.getByRole("button", { name: "Try now" }).click().catch(() => {}); // it may be connected already
      await banner.waitFor({ state: "hidden" });
      isFilled(await layout(bob));
    });
  }

  it("and will not be says why, and how to go on", async (t) => {
    const bob = await enters(t, world.others.pop());
    const elsewhere = await bob.context.newPage();
    await elsewhere.goto(world.page);
    await elsewhere.getByRole("button", { name: "Log out" }).click();
    await bob.seesProblem("You have been logged out. Reload the page to log in again.");
    await bob.page.getByRole("button", { name: "Reload" }).click();
    await bob.page.getByRole("heading", { name: "Log in" }).waitFor();
  });

  it("from the beginning says so, too, if it takes longer than usual", async (t) => {
    t.after(() => world.balancer.mend());
    world.balancer.cut();
    const entering = enters(t, world.others.pop());
    const page = await until("the page is there", () => browser.contexts().at(-1)?.pages()[0]);
    await page.getByRole("alert").getByText("Not connected").waitFor();
    world.balancer.mend();
    await entering;
    await page.getByRole("alert").waitFor({ state: "hidden" });
  });
});
