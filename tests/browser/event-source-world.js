// high-templar behind a front that pages are loaded from, and through which their event streams go. The front passes bytes, so a
// stream ends in a page's browser exactly as high-templar ends it.

import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { freePort, start, stop, until, untilReady } from "./processes.js";

const { resolve } = createRequire(import.meta.url);
const FETCH = dirname(resolve("@microsoft/fetch-event-source/package.json"));
const FILES = {
  "/polyfill.js": readFileSync(resolve("event-source-polyfill/src/eventsource.js")),
  "/fetch/index.js": readFileSync(join(FETCH, "lib/esm/index.js")),
  "/fetch/fetch": readFileSync(join(FETCH, "lib/esm/fetch.js")),
  "/fetch/parse": readFileSync(join(FETCH, "lib/esm/parse.js")),
};

/** Passes `/sse/` on as bytes, and serves pages. */
class Front {
  static async start(backendPort) {
    const front = new Front();
    front.streams = new Set();
    front.attempts = new Map(); // how often each page has asked for its stream
    front.pages = createHttpServer((request, response) => {
      const file = FILES[new URL(request.url, "http://front").pathname];
      response.setHeader("Connection", "close"); // else a browser would ask for its stream on the same connection
      response.setHeader("Content-Type", file ? "text/javascript" : "text/html").end(file ?? "<!doctype html><title>page</title>");
    });
    front.server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.once("data", (head) => {
        const target = /^(\S+) (\S+)/.exec(head);
        if (!target?.[2].startsWith("/sse/")) {
          socket.unshift(head);
          return front.pages.emit("connection", socket);
        }
        if (target[1] === "GET") front.count(new URL(target[2], "http://front").searchParams.get("page"));
        front.pass(socket, head, backendPort);
      });
    });
    front.server.listen(0, "127.0.0.1");
    await once(front.server, "listening");
    front.origin = `http://127.0.0.1:${front.server.address().port}`;
    return front;
  }

  count(page) { this.attempts.set(page, (this.attempts.get(page) ?? 0) + 1); }

  pass(socket, head, port) {
    const other = connect(port, "127.0.0.1", () => {
      other.write(head);
      socket.pipe(other).pipe(socket);
    });
    this.streams.add(socket);
    for (const [end, peer] of [[socket, other], [other, socket]]) {
      end.on("error", () => peer.destroy());
      end.on("close", () => { peer.destroy(); this.streams.delete(socket); });
    }
  }

  /** Ends all streams in the middle of whatever they are sending. */
  cut() { this.streams.forEach((socket) => socket.destroy()); }

  stop() {
    this.cut();
    this.server.close();
    this.pages.closeAllConnections();
  }
}

export class World {
  static async start(binary) {
    const world = new World();
    world.binary = binary;
    world.folder = mkdtempSync(join(tmpdir(), "event-source-"));
    world.published = 0;
    [world.port, world.internalPort] = [await freePort(), await freePort()];
    world.fronts = [await Front.start(world.port), await Front.start(world.port)];
    const answer = JSON.stringify({ allowed_rooms: [{ room: "events" }], user: { data: { id: 1 } } });
    world.api = createHttpServer((_, response) => response.setHeader("Content-Type", "application/json").end(answer));
    world.api.listen(0, "127.0.0.1");
    await once(world.api, "listening");
    await world.startServer();
    return world;
  }

  async startServer() {
    this.server = start(this.binary, [], {
      API_URL: `http://127.0.0.1:${this.api.address().port}/`,
      LISTEN: `127.0.0.1:${this.port}`,
      INTERNAL_LISTEN: `127.0.0.1:${this.internalPort}`,
      ALLOWED_ORIGINS: this.fronts.map((front) => front.origin).join(","),
      EMBEDDED_LOG: join(this.folder, "log"),
    });
    await untilReady(this.server, this.internalPort);
  }

  stopServer(signal) { return stop(this.server, signal); }

  cut() { this.fronts.forEach((front) => front.cut()); }

  /** How often the page of this name has asked for its stream. */
  attempts(page) { return this.fronts.reduce((sum, front) => sum + (front.attempts.get(page) ?? 0), 0); }

  /** Publishes the next `count` numbers. */
  async publish(count) {
    for (let each = 0; each < count; each++) {
      const body = JSON.stringify({ rooms: [{ room: "events" }], data: this.published++ });
      const response = await fetch(`http://127.0.0.1:${this.internalPort}/trigger/`, { method: "POST", body });
      if (!response.ok) throw new Error(`not published: ${response.status} ${await response.text()}`);
    }
  }

  async stop() {
    this.fronts.forEach((front) => front.stop());
    this.api.closeAllConnections();
    this.api.close();
    await stop(this.server);
    rmSync(this.folder, { recursive: true });
  }
}

/** Waits until all `pages` have received `numbers`. */
export const untilReceived = (pages, numbers, seconds) => until(
  `all pages have ${numbers} numbers`,
  async () => (await Promise.all(pages.map((page) => page.evaluate(() => window.numbers.length)))).every((count) => count >= numbers),
  seconds,
);
