// What developers read on the console where the application would get no word of it; and handlers of everything.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Socket } from "../src/index.js";
import { connect, isConfirmed, isOpen, subscribe } from "./support/client.js";
import { until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { obey, script } from "./support/script.js";
import { Server } from "./support/server.js";
import WebSocket from "ws";

const room = { target: "message" };

/** The lines that come to be written on the console during test `t`. */
function console_(t) {
  const lines = [];
  t.mock.method(console, "warn", (...words) => lines.push(words.join(" ").trim()));
  return lines;
}

/** A socket to whose events nothing listens. */
function quiet(t, { url }, options) {
  const socket = new Socket({ url, WebSocket, reconnectInterval: 20, maxReconnectInterval: 20, token: "secret", ...options });
  t.after(() => socket.close());
  return socket;
}

describe("a warning", () => {
  it("names the room of a subscription that is over without an onError", async (t) => {
    const lines = console_(t);
    const server = await Server.start(t);
    server.backend.clients.set("alice", [room]);
    const socket = connect(t, server);
    subscribe(socket, { target: "secret" }, { onError: undefined });
    const heard = subscribe(socket, { target: "other" });
    await until("both are over", () => socket.subscriptions.length === 0);
    assert.equal(heard.log.length, 1);
    assert.equal(lines.length, 1);
    assert.match(lines[0], /^high-templar: .*\{"target":"secret"\}.*room-not-found.*nearest/);
  });

  it("tells once of gaps that no onReconnect hears of", async (t) => {
    const lines = console_(t);
    const server = await script(t, (connection) => obey(connection));
    const socket = connect(t, server);
    subscribe(socket, room, { onReconnect: undefined });
    await isConfirmed(subscribe(socket, room));
    for (const position of ["e:5", "e:6"]) server.connections[0].tell({ type: "resync", position });
    await until("both have come", () => socket.subscriptions[1].log.length === 2);
    assert.equal(lines.length, 1);
    assert.match(lines[0], /may be missing.*onReconnect/);
  });

  it("tells of a frame that cannot be read, not of each, and not where the application hears of it", async (t) => {
    const lines = console_(t);
    const serve = (connection) => {
      for (const text of ["{", "{", "["]) connection.send(text);
      obey(connection);
    };
    const server = await script(t, serve);
    const socket = quiet(t, server);
    await isOpen(socket);
    assert.deepEqual(lines, ["high-templar: a frame is no JSON"]);
    const other = connect(t, server);
    await isOpen(other);
    assert.equal(other.told("error").length, 3);
    assert.equal(lines.length, 1);
  });

  it("tells once that no socket gets through", async (t) => {
    const lines = console_(t);
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = "refuse";
    const socket = quiet(t, proxy);
    const subscription = subscribe(socket, room);
    for (let i = 0; i < 2; i += 1) {
      await isConfirmed(subscription);
      proxy.cut();
      await until("it is away", () => socket.state !== "open");
      await isOpen(socket);
    }
    assert.deepEqual(lines.map((line) => /server-sent events/.test(line)), [true]);
    const alone = quiet(t, proxy, { WebSocket: null });
    await isConfirmed(subscribe(alone, room));
    assert.equal(lines.length, 1); // that was the application's choice
  });

  it("tells of a connection that is over, and why, but not of one that the application has closed", async (t) => {
    const lines = console_(t);
    const server = await script(t, (connection) => {
      obey(connection);
      connection.close(3501, "by-application");
    });
    const socket = quiet(t, server);
    await until("the end", () => socket.state === "closed");
    assert.deepEqual(lines, ["high-templar: disconnected for good: 3501 by-application; connect() tries again"]);
    const heard = connect(t, server);
    await until("the end", () => heard.state === "closed");
    const closed = quiet(t, await script(t, (connection) => obey(connection)));
    await isOpen(closed);
    closed.close();
    assert.equal(lines.length, 1);
  });

  it("tells of a feed that fails or stops unheard, and never of credentials or data", async (t) => {
    const lines = console_(t);
    const server = await Server.start(t);
    server.backend.clients.set("secret", []);
    const socket = quiet(t, server);
    let calls = 0;
    const snapshot = () => {
      calls += 1;
      if (calls <= 2) throw new Error("away");
      return { position: null, data: "private" };
    };
    const feed = socket.feed({ snapshot, room, onSnapshot() {}, onPublish() {} });
    await until("it has stopped", () => lines.length === 2);
    assert.match(lines[0], /snapshot could not be fetched.*away/);
    assert.match(lines[1], /a feed has stopped: room-not-found/);
    assert.ok(lines.every((line) => !/secret|private/.test(line)));
    feed.close();
  });
});

describe('a handler of "*"', () => {
  it("hears every event, with its name, after the others", async (t) => {
    const server = await script(t, (connection) => obey(connection));
    const socket = quiet(t, server);
    const heard = [];
    const all = (event, value) => heard.push([event, value]);
    socket.on("*", all);
    socket.on("open", () => heard.push("open"));
    await isOpen(socket);
    await until("all rooms", () => heard.length === 5);
    assert.deepEqual(heard.map((entry) => entry[0].length > 1 ? entry[0] : entry), ["state", "open", "open", "message", "allowed_rooms"]);
    assert.deepEqual([heard[0][1], heard[2][1], heard[3][1].type], ["open", undefined, "welcome"]);
    socket.off("*", all);
    socket.close();
    assert.equal(heard.length, 5);
  });
});
