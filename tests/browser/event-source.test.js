// The libraries by which pages read server-sent events, in a browser, with their own defaults: through a cut, a graceful stop and a kill.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";
import { World, untilReceived } from "./event-source-world.js";
import { stopAll, until } from "./processes.js";

const BINARY = process.argv[2];
const AWAY_MS = 5000;
const MOST_ATTEMPTS = 3;

// Each begins to listen in the page that it is carried out in. `take` gets the data of each event without a name.
const LIBRARIES = {
  EventSource: (url, take) => {
    const source = new EventSource(url, { withCredentials: true });
    source.onmessage = (event) => take(event.data);
  },
  "event-source-polyfill": async (url, take) => {
    await new Promise((resolve) => {
      document.head.append(Object.assign(document.createElement("script"), { src: "/polyfill.js", onload: resolve }));
    });
    const source = new window.EventSourcePolyfill(url, { withCredentials: true });
    source.onmessage = (event) => take(event.data);
  },
  "fetch-event-source": async (url, take) => {
    const { fetchEventSource } = await import("/fetch/index.js");
    fetchEventSource(url, { credentials: "include", onmessage: (event) => { if (event.event === "" && event.data) take(event.data); } });
  },
};

describe("pages that read events", () => {
  let browser, world;
  const pages = new Map();

  before(async () => {
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
    world = await World.start(BINARY);
    const [own, other] = world.fronts;
    for (const [library, listen] of Object.entries(LIBRARIES)) {
      for (const [place, front] of [["same origin", own], ["other origin", other]]) {
        const name = `${library}, ${place}`;
        const page = await browser.newPage();
        await page.goto(`${own.origin}/`);
        const room = encodeURIComponent(JSON.stringify({ room: "events" }));
        const url = `${front.origin}/sse/?room=${room}&page=${encodeURIComponent(name)}`;
        await page.evaluate(async ({ listen, url }) => {
          window.numbers = [];
          window.replies = [];
          const take = (data) => {
            const frame = JSON.parse(data);
            if (frame.type === "publish") window.numbers.push(frame.data);
            if (frame.type === "reply") window.replies.push(frame);
          };
          await eval(listen)(url, take);
        }, { listen: listen.toString(), url });
        await until(`${name} listens`, () => page.evaluate(() => window.replies.length === 1));
        pages.set(name, page);
      }
    }
  });
  after(async () => {
    await browser?.close();
    await world?.stop();
    await stopAll();
  });

  // Every number so far, once and in order; what was missed was given later.
  async function assertWhole(reconnects) {
    await untilReceived([...pages.values()], world.published, 30);
    const expected = Array.from({ length: world.published }, (_, number) => number);
    for (const [name, page] of pages) {
      const { numbers, replies } = await page.evaluate(() => ({ numbers: window.numbers, replies: window.replies }));
      assert.deepEqual(numbers, expected, name);
      assert.equal(replies.length, 1 + reconnects, name);
      assert.ok(replies.slice(1).every((reply) => reply.recovered === true), `${name}: ${JSON.stringify(replies)}`);
    }
  }

  it("miss nothing when their connections are cut", async () => {
    await world.publish(20);
    await untilReceived([...pages.values()], 20);
    world.cut();
    await world.publish(20);
    await assertWhole(1);
    await world.publish(5);
    await assertWhole(1);
  });

  it("miss nothing when the server stops, and ask it at most three times while it is away for 5 s", async () => {
    const before = new Map([...pages.keys()].map((name) => [name, world.attempts(name)]));
    await world.publish(5);
    await world.stopServer("SIGTERM");
    await sleep(AWAY_MS);
    await world.startServer();
    await world.publish(20);
    await assertWhole(2);
    for (const [name, count] of before) {
      const attempts = world.attempts(name) - count;
      assert.ok(attempts >= 1 && attempts <= MOST_ATTEMPTS, `${name}: ${attempts} attempts`);
    }
  });

  it("miss nothing when the server is killed", async () => {
    await world.publish(5);
    await untilReceived([...pages.values()], world.published);
    await world.stopServer("SIGKILL");
    await world.startServer();
    await world.publish(20);
    await assertWhole(3);
  });
});
