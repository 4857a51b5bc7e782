// What is published: the modules, the plain script, the types, and nothing else.

import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import vm from "node:vm";
import { gzipSync } from "node:zlib";
import { parse } from "acorn";
import WebSocket from "ws";
import { listen, until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { Server } from "./support/server.js";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const TSC = join(HERE, "node_modules/typescript/bin/tsc");
const JEST = join(HERE, "test/jest/node_modules");
const [MODULE, COMMONJS, PLAIN] = ["dist/high-templar.mjs", "dist/commonjs/high-templar.js", "dist/high-templar.js"];

/** A folder in which the package is installed, as npm would. */
function installed(t) {
  const scratch = mkdtempSync(join(tmpdir(), "high-templar-package-"));
  t.after(() => rmSync(scratch, { recursive: true, force: true }));
  const target = join(scratch, "node_modules/high-templar");
  mkdirSync(target, { recursive: true });
  const [{ filename }] = JSON.parse(execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", scratch],
    { cwd: HERE, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
  execFileSync("tar", ["-xzf", join(scratch, filename), "--strip-components", "1", "-C", target]);
  return scratch;
}

/** Checks that the library's socket gets what is published. */
async function hears(t, server, { Socket }) {
  const socket = new Socket({ url: server.url, WebSocket });
  t.after(() => socket.close());
  const published = [];
  const subscription = socket.subscribe({ room: { target: 1 }, onPublish: ({ data }) => published.push(data) });
  await until("the subscription is confirmed", () => subscription.position);
  await server.trigger({ target: 1 }, "hello");
  await until("the publication", () => published[0] === "hello");
}

describe("the package", () => {
  before(() => execFileSync("npm", ["run", "--silent", "build"], { cwd: HERE, stdio: ["ignore", "ignore", "inherit"] }));

  it("holds just what it should", () => {
    const [{ files, name, version }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"],
      { cwd: HERE, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }));
    const paths = files.map(({ path }) => path).filter((path) => !/^dist\/(commonjs\/)?types\/[a-z-]+\.d\.ts$/.test(path));
    assert.deepEqual(paths.sort(), [
      "LICENSE", "README.md", "dist/commonjs/high-templar.js", "dist/commonjs/high-templar.js.map", "dist/commonjs/package.json",
      "dist/high-templar.js", "dist/high-templar.mjs", "dist/high-templar.mjs.map", "package.json",
    ]);
    for (const types of ["dist/types/index.d.ts", "dist/commonjs/types/index.d.ts"]) assert.ok(files.some(({ path }) => path === types));
    assert.deepEqual([name, version], ["high-templar", "4.0.0"]);
    assert.deepEqual(JSON.parse(readFileSync(join(HERE, "package.json"))).dependencies, undefined);
  });

  const texts = () => Object.fromEntries([MODULE, COMMONJS, PLAIN].map((name) => [name, readFileSync(join(HERE, name), "utf8")]));

  it("is made of its sources alone", () => {
    const before = texts();
    execFileSync(process.execPath, ["build.js"], { cwd: HERE, stdio: ["ignore", "ignore", "inherit"] });
    assert.deepEqual(texts(), before);
  });

  it("is small, and ES2017, which the parser of webpack 4 reads", (t) => {
    for (const [name, text] of Object.entries(texts())) {
      const bytes = gzipSync(text, { level: 9 }).length;
      t.diagnostic(`${name}: ${text.length} bytes, ${bytes} gzipped`);
      assert.ok(bytes <= 12_000, `${name} has ${bytes} bytes`);
      parse(text, { ecmaVersion: 2017, sourceType: name === MODULE ? "module" : "script" });
    }
  });

  it("needs no global to be loaded, and none but a WebSocket's to connect", async (t) => {
    const server = await Server.start(t);
    const module = { exports: {} };
    vm.runInNewContext(texts()[COMMONJS], { module, exports: module.exports });
    assert.deepEqual(Object.keys(module.exports).sort(), ["Feed", "Socket", "Subscription", "generateUrl"]);
    // Neither TextEncoder nor fetch, EventSource, AbortController or a page.
    const context = vm.createContext({ WebSocket, URL, setTimeout, clearTimeout, setInterval, clearInterval });
    vm.runInContext(texts()[PLAIN], context);
    await hears(t, server, context.HighTemplar);
  });

  it("is a module and a CommonJS module, whichever an application loads", async (t) => {
    const server = await Server.start(t);
    const scratch = installed(t);
    writeFileSync(join(scratch, "load.mjs"), 'export * from "high-templar";');
    writeFileSync(join(scratch, "load.cjs"), 'module.exports = require("high-templar");');
    const required = createRequire(join(scratch, "load.cjs"))("./load.cjs");
    const imported = await import(join(scratch, "load.mjs"));
    assert.notEqual(required.Socket, imported.Socket);
    for (const library of [required, imported]) await hears(t, server, library);
  });

  it("goes through Jest, with jsdom around it", async (t) => {
    const server = await Server.start(t, { ALLOWED_ORIGINS: "http://localhost" });
    const scratch = installed(t);
    writeFileSync(join(scratch, "page.test.js"), readFileSync(join(HERE, "test/fixtures/jsdom.js")));
    const config = { rootDir: scratch, testEnvironment: join(JEST, "jest-environment-jsdom"), transform: {}, cacheDirectory: join(scratch, "cache") };
    const jest = spawn(process.execPath, [join(JEST, "jest/bin/jest.js"), "--config", JSON.stringify(config)],
      { cwd: scratch, env: { ...process.env, URL_OF_SOCKET: server.url }, stdio: ["ignore", "ignore", "pipe"] });
    t.after(() => jest.kill());
    let output = "";
    jest.stderr.setEncoding("utf8").on("data", (text) => { output += text; });
    const ended = new Promise((resolve) => { jest.on("close", resolve); });
    await until("the page listens", async () => jest.exitCode !== null || (await server.rooms()) === 1, 60);
    await server.trigger({ target: "jest" }, "hello");
    assert.equal(await ended, 0, output);
    assert.match(output, /2 passed/);
  });

  it("has types that let right programs pass, and find mistakes, in modules of either kind", (t) => {
    const scratch = installed(t);
    const write = (name, fixture) => writeFileSync(join(scratch, name), readFileSync(join(HERE, "test/fixtures", fixture)));
    for (const kind of ["mts", "cts"]) {
      write(`right.${kind}`, "right.ts");
      write(`wrong.${kind}`, "wrong.ts");
    }
    const names = ["right.mts", "right.cts", "wrong.mts", "wrong.cts"];
    const { stdout } = spawnSync(process.execPath, [TSC, "--strict", "--noEmit", "--skipDefaultLibCheck", "--module", "nodenext",
      "--lib", "es2020,dom", "--target", "es2020", ...names], { cwd: scratch, encoding: "utf8" });
    const mistakes = stdout.split("\n").filter((line) => line.includes("error TS")).map((line) => line.split(",")[0]);
    const lines = readFileSync(join(HERE, "test/fixtures/wrong.ts"), "utf8").trimEnd().split("\n").length;
    const wrong = Array.from({ length: lines - 3 }, (_, i) => i + 4);
    assert.deepEqual(mistakes.sort(), ["cts", "mts"].flatMap((kind) => wrong.map((line) => `wrong.${kind}(${line}`)).sort(), stdout);
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
    old.isOld = () => true;
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
    assert.deepEqual(old.asked, ["v4", "plain"]);
  });
});
