// Pages that a browser freezes, as phones do with those that nobody looks at. SLEEP_SECONDS tells for how long, beyond the few
// seconds that the states in question take to come about.
//
// Chromium freezes hidden pages only, and the headless shell hides none. So the debugger stops the page: neither timers nor
// the network get through to it, and no event tells it. The test emits the two that a browser does.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { listen, until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { Server } from "./support/server.js";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const SLEEP_MS = Number(process.env.SLEEP_SECONDS ?? 0) * 1000;
const room = { target: "message" };

describe("a page that was frozen is current at once", { concurrency: SLEEP_MS ? 6 : 2 }, () => {
  let browser, script;
  before(async () => {
    const { chromium } = await import("playwright-core");
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
    const { outputFiles } = await build({
      entryPoints: [join(HERE, "src/index.js")], bundle: true, write: false, format: "iife", globalName: "HighTemplar",
    });
    script = outputFiles[0].contents;
  });
  after(() => browser.close());

  /** A page that follows the room, and tells when it has what. */
  async function open(t, { settings = {}, sockets = "pass" } = {}) {
    const web = createServer(({ url }, response) => {
      const isScript = url === "/high-templar.js";
      response.writeHead(200, { "Content-Type": isScript ? "text/javascript" : "text/html" });
      response.end(isScript ? script : "<!doctype html><title>page</title><script src=/high-templar.js></script>");
    });
    const port = await listen(web);
    t.after(() => { web.closeAllConnections(); web.close(); });
    const server = await Server.start(t, { ALLOWED_ORIGINS: `http://127.0.0.1:${port}`, ...settings });
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = sockets;
    const page = await browser.newPage();
    t.after(() => page.close());
    const devtools = await page.context().newCDPSession(page);
    await page.goto(`http://127.0.0.1:${port}/`);
    await page.evaluate((url) => {
      // Neither a wait nor the next ping can bring it back in time.
      globalThis.socket = new globalThis.HighTemplar.Socket({ url, reconnectInterval: 2 ** 30, maxReconnectInterval: 2 ** 30 });
      globalThis.log = [];
      globalThis.subscription = globalThis.socket.subscribe({
        room: { target: "message" },
        onPublish: ({ data }) => globalThis.log.push(data),
        onReconnect: () => globalThis.log.push("gap"),
      });
      setInterval(() => { globalThis.ticks = (globalThis.ticks ?? 0) + 1; }, 10);
    }, proxy.url);
    await page.waitForFunction(() => globalThis.subscription.position);
    await server.trigger(room, 0);
    await page.waitForFunction(() => globalThis.log.length === 1);
    await devtools.send("Debugger.enable");
    const freeze = async () => {
      await page.evaluate(() => document.dispatchEvent(new Event("freeze")));
      const paused = new Promise((resolve) => { devtools.once("Debugger.paused", resolve); });
      await devtools.send("Debugger.pause");
      const { callFrames: [{ callFrameId }] } = await paused;
      return async () => {
        const expression = "globalThis.frozenTicks = globalThis.ticks; globalThis.woken = performance.now()";
        await devtools.send("Debugger.evaluateOnCallFrame", { callFrameId, expression });
        await devtools.send("Debugger.resume");
        await page.evaluate(() => document.dispatchEvent(new Event("resume")));
      };
    };
    return { server, proxy, page, freeze };
  }

  for (const [name, options, sleep] of [
    ["by a connection that still works", {}, () => {}],
    ["in place of one that has died in silence", {}, ({ proxy }) => proxy.freeze()],
    ["in place of one that was cut", {}, ({ proxy }) => proxy.cut()],
    ["in place of one that the server has closed as idle", { settings: { IDLE_TIMEOUT: "2s" } },
      ({ server }) => until("the server has closed it", async () => (await server.connections()) === 0)],
    ["after the server was started again", {}, async ({ server }) => { await server.kill(); await server.launch(); }],
    ["in place of an event stream that has died in silence", { sockets: "refuse" }, ({ proxy }) => proxy.freeze()],
  ]) {
    it(name, async (t) => {
      const world = await open(t, options);
      const { server, page, freeze } = world;
      const frozenAt = Date.now();
      const wake = await freeze();
      await server.trigger(room, 1);
      await sleep(world);
      await server.trigger(room, 2);
      await until("it has been away for long enough", () => Date.now() - frozenAt >= 3100 + SLEEP_MS, SLEEP_MS / 1000 + 15);
      await server.trigger(room, 3);
      await wake();
      const took = await page.evaluate(() => new Promise((resolve) => {
        const look = () => (globalThis.log.at(-1) === 3 || performance.now() - globalThis.woken > 10_000 ? resolve(performance.now() - globalThis.woken) : setTimeout(look, 1));
        look();
      }));
      t.diagnostic(`${name}: current ${Math.round(took)} ms after waking up`);
      assert.deepEqual(await page.evaluate(() => globalThis.log), [0, 1, 2, 3]);
      assert.ok(await page.evaluate((ms) => globalThis.frozenTicks < globalThis.woken / 10 - ms / 10 + 50, 3100 + SLEEP_MS), "the page was not frozen");
    });
  }
});
