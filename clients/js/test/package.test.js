// What is published: the plain script, the module, the types, and nothing else.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import vm from "node:vm";
import WebSocket from "ws";
import { listen, until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { Server } from "./support/server.js";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const TSC = join(HERE, "node_modules/typescript/bin/tsc");

describe("the package", () => {
  before(() => execFileSync("npm", ["run", "--silent", "build"], { cwd: HERE, stdio: ["ignore", "ignore", "inherit"] }));

  it("holds just what it should", () => {
    const [{ files, name, version }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"],
      { cwd: HERE, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
    const paths = files.map(({ path }) => path).filter((path) => !/^dist\/types\/[a-z-]+\.d\.ts$/.test(path));
    assert.deepEqual(paths.sort(), ["LICENSE", "README.md", "dist/high-templar.js", "dist/high-templar.mjs", "package.json"]);
    assert.ok(files.some(({ path }) => path === "dist/types/index.d.ts"));
    assert.deepEqual([name, version], ["high-templar", "4.0.0"]);
    assert.deepEqual(JSON.parse(readFileSync(join(HERE, "package.json"))).dependencies, undefined);
  });

  it("is a module, and a plain script with a global HighTemplar", async (t) => {
    const server = await Server.start(t);
    const context = vm.createContext({ WebSocket, URL, setTimeout, clearTimeout, setInterval, clearInterval, TextEncoder });
    vm.runInContext(readFileSync(join(HERE, "dist/high-templar.js"), "utf8"), context);
    for (const { Socket } of [context.HighTemplar, await import("../dist/high-templar.mjs")]) {
      const socket = new Socket({ url: server.url, WebSocket });
      t.after(() => socket.close());
      const published = [];
      const subscription = socket.subscribe({ room: { target: 1 }, onPublish: ({ data }) => published.push(data) });
      await until("the subscription is confirmed", () => subscription.position);
      await server.trigger({ target: 1 }, "hello");
      await until("the publication", () => published[0] === "hello");
    }
  });

  it("has types that let right programs pass, and find mistakes", (t) => {
    const scratch = mkdtempSync(join(tmpdir(), "high-templar-types-"));
    t.after(() => rmSync(scratch, { recursive: true, force: true }));
    mkdirSync(join(scratch, "node_modules"));
    symlinkSync(HERE, join(scratch, "node_modules/high-templar"));
    const names = ["right.ts", "wrong.ts"];
    for (const name of names) writeFileSync(join(scratch, name), readFileSync(join(HERE, "test/fixtures", name)));
    const { stdout } = spawnSync(process.execPath, [TSC, "--strict", "--noEmit", "--skipDefaultLibCheck", "--module", "nodenext",
      "--lib", "es2020,dom", "--target", "es2020", ...names], { cwd: scratch, encoding: "utf8" });
    const mistakes = stdout.split("\n").filter((line) => line.includes("error TS")).map((line) => line.split(",")[0]);
    assert.deepEqual(mistakes, [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map((line) => `wrong.ts(${line}`));
  });
});

describe("a page in Chromium", () => {
  it("of another origin speaks version 4, by sockets and event streams, and 3.1's protocol", async (t) => {
    const { chromium } = await import("playwright-core");
    const web = createServer(({ url }, response) => {
      const [type, body] = url === "/high-templar.js"
        ? ["text/javascript", readFileSync(join(HERE, "dist/high-templar.js"))]
        : ["text/html", "<!doctype html><title>page</title><script src=/high-templar.js></script>"];
      response.writeHead(200, { "Content-Type": type }).end(body);
    });
    const port = await listen(web);
    t.after(() => { web.closeAllConnections(); web.close(); });
    const server = await Server.start(t, { ALLOWED_ORIGINS: `http://127.0.0.1:${port}` });
    const [blocked, old] = [await Proxy.start(t, server.port), await Proxy.start(t, server.port)];
    blocked.sockets = "refuse";
    old.stripsSubprotocol = true;
    old.streams = "absent";
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${port}/`);
    for (const [{ url }, transport, protocol] of [
      [server, "websocket", "high-templar.v4"], [blocked, "sse", "high-templar.v4"], [old, "websocket", "3.1"],
    ]) {
      await page.evaluate((address) => {
        const socket = globalThis.socket = new globalThis.HighTemplar.Socket({ url: address });
        globalThis.published = [];
        socket.subscribe({ room: { target: "message" }, onPublish: ({ data }) => globalThis.published.push(data) });
      }, url);
      const isListening = async () => (await server.rooms()) === 1;
      await until("the page listens", isListening);
      await server.trigger({ target: "message" }, "hello");
      await page.waitForFunction(() => globalThis.published.length > 0);
      assert.deepEqual(await page.evaluate(() => [globalThis.published, globalThis.socket.transport, globalThis.socket.protocol]),
        [["hello"], transport, protocol]);
      await page.evaluate(() => globalThis.socket.close());
      await until("the page has gone", async () => !await isListening());
    }
    assert.deepEqual(old.asked, ["v4", "sse", "plain", "v4", "plain"]);
  });
});
