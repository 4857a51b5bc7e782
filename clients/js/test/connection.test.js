// By WebSocket, against the server.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import WebSocket from "ws";
import { Socket } from "../src/index.js";
import { connect, isConfirmed, isOpen, logs, subscribe } from "./support/client.js";
import { page } from "./support/page.js";
import { freePort, until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { Server } from "./support/server.js";

const room = { target: "message" };

describe("publications", { concurrency: 4 }, () => {
  it("come to the subscriptions of their room, as whole frames", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    const frames = [];
    const subscription = socket.subscribe({ room, onPublish: (frame) => frames.push(frame) });
    const other = subscribe(socket, { target: "other" });
    await isConfirmed(other);
    await server.trigger(room, { text: "hello" });
    await server.trigger({ target: "other" }, 2);
    assert.deepEqual(await logs(other, 2), [2]);
    assert.equal(frames.length, 1);
    const { type, data, requestId, position } = frames[0];
    assert.deepEqual([type, data, requestId], ["publish", { text: "hello" }, subscription.requestId]);
    assert.equal(subscription.position, position);
    assert.deepEqual([socket.state, socket.transport, socket.protocol], ["open", "websocket", "high-templar.v4"]);
    assert.match(socket.connection, /^[0-9a-f-]{36}$/);
    assert.deepEqual(socket.allowedRooms, [{ target: "*" }]);
    assert.deepEqual(socket.subscriptions, [subscription, other]);
    assert.deepEqual(socket.events, [["state", "open"], ["open", undefined], ["allowed_rooms", [{ target: "*" }]]]);
  });

  it("come no more after unsubscribing", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    const [left, right] = [subscribe(socket, room), subscribe(socket, room)];
    await isConfirmed(right);
    await socket.unsubscribe(left);
    await socket.unsubscribe(left);
    await server.trigger(room, 1);
    assert.deepEqual(await logs(right, 1), [1]);
    assert.deepEqual(left.log, []);
    assert.deepEqual(socket.subscriptions, [right]);
  });

  it("since a position come first", async (t) => {
    const server = await Server.start(t);
    const since = await server.position();
    await server.trigger(room, 1);
    const subscription = subscribe(connect(t, server), room, { since });
    await logs(subscription, "recovered", 1);
    await server.trigger(room, 2);
    assert.deepEqual(await logs(subscription, "recovered", 1, 2), ["recovered", 1, 2]);
  });

  it("since a position that the server does not know: fetch", async (t) => {
    const server = await Server.start(t);
    const subscription = subscribe(connect(t, server), room, { since: "000000000000:1" });
    assert.deepEqual(await logs(subscription, "reconnect"), ["reconnect"]);
  });

  it("come to all, however many subscriptions there are", async (t) => {
    const server = await Server.start(t, { MESSAGE_LIMIT: "16KiB" });
    const socket = connect(t, server);
    const subscriptions = Array.from({ length: 2500 }, (_, i) => subscribe(socket, { target: i }));
    const large = subscribe(socket, { target: "é".repeat(9000) });
    await isConfirmed(subscriptions[2499]);
    assert.ok(subscriptions.every(({ position }) => position));
    assert.equal(large.log[0].message, "message-too-large");
    await server.trigger({ target: 1234 }, "there");
    assert.deepEqual(await logs(subscriptions[1234], "there"), ["there"]);
    assert.equal(socket.state, "open");
  });
});

describe("what was missed", { concurrency: 4 }, () => {
  it("comes once and in order after the server was killed again and again", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    const [first, second] = [subscribe(socket, room), subscribe(socket, { target: "second" })];
    await isConfirmed(second);
    let last = 0;
    for (let round = 0; round < 3; round += 1) {
      for (let i = 0; i < 20; i += 1) await server.trigger(room, last += 1);
      await server.kill();
      await until("the loss is noticed", () => socket.state !== "open");
      await server.launch();
      for (let i = 0; i < 20; i += 1) await server.trigger(room, last += 1);
    }
    await until("the last one", () => first.log.includes(last));
    assert.deepEqual(first.log.filter((entry) => entry !== "recovered"), Array.from({ length: 120 }, (_, i) => i + 1));
    await until("all reconnections are told", () => second.log.length === 3);
    assert.deepEqual(second.log, ["recovered", "recovered", "recovered"]);
    assert.equal(first.log.filter((entry) => entry === "recovered").length, 3);
  });

  it("comes after the connection was cut", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    const socket = connect(t, proxy);
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    await server.trigger(room, 1);
    await logs(subscription, 1);
    proxy.sockets = proxy.streams = "refuse";
    proxy.cut();
    await server.trigger(room, 2);
    await until("some attempts", () => proxy.asked.length >= 3);
    proxy.sockets = proxy.streams = "pass";
    assert.deepEqual(await logs(subscription, 1, "recovered", 2), [1, "recovered", 2]);
  });

  it("is told where the server cannot know it", async (t) => {
    const server = await Server.start(t, { EMBEDDED_LOG: "" });
    const socket = connect(t, server);
    const [first, second] = [subscribe(socket, room), subscribe(socket, room, { onReconnect: undefined })];
    await isConfirmed(second);
    await server.kill();
    await until("the loss is noticed", () => socket.state !== "open");
    const meanwhile = subscribe(socket, { target: "new" });
    await server.launch();
    assert.deepEqual(await logs(meanwhile, "reconnect"), ["reconnect"]);
    assert.deepEqual(first.log, ["reconnect"]);
    assert.deepEqual(second.log, []);
    const later = subscribe(socket, { target: "later" });
    await isConfirmed(later);
    assert.deepEqual(later.log, []);
  });

  it("comes to subscriptions that were kept over close() and connect()", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    socket.close();
    assert.equal(socket.state, "closed");
    await server.trigger(room, 1);
    socket.connect();
    assert.deepEqual(await logs(subscription, "recovered", 1), ["recovered", 1]);
  });

  it("comes without the API being asked, by ticket", async (t) => {
    const server = await Server.start(t, { RESUME_SECRET: "0123456789abcdef" });
    const proxy = await Proxy.start(t, server.port);
    const socket = connect(t, proxy);
    const welcomes = [];
    socket.on("message", (frame) => { if (frame.type === "welcome") welcomes.push(frame); });
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    const asked = server.backend.asked.length;
    for (const data of [1, 2]) {
      proxy.cut();
      await server.trigger(room, data);
      await until("it is back, and has the publication", () => subscription.log.includes(data));
    }
    assert.deepEqual(subscription.log, ["recovered", 1, "recovered", 2]);
    assert.deepEqual(welcomes.map(({ resumed }) => resumed), [false, true, true]);
    assert.equal(server.backend.asked.length, asked);
    assert.deepEqual(proxy.targets, ["/ws/?token=alice", "/ws/?token=alice&resume", "/ws/?token=alice&resume"]);
  });
});

describe("permissions", { concurrency: 4 }, () => {
  it("refuse a room, and nothing else", async (t) => {
    const server = await Server.start(t);
    server.backend.clients.set("alice", [{ target: "message" }]);
    const socket = connect(t, server);
    const [refused, allowed] = [subscribe(socket, { target: "secret" }), subscribe(socket, room)];
    await isConfirmed(allowed);
    const [error] = await logs(refused, "error");
    assert.equal(error.message, "room-not-found");
    assert.match(error.detail, /nearest/);
    assert.deepEqual(socket.subscriptions, [allowed]);
  });

  it("are taken away", async (t) => {
    const server = await Server.start(t);
    server.backend.clients.set("alice", [{ target: "message" }, { target: "other" }]);
    const socket = connect(t, server);
    const [kept, lost] = [subscribe(socket, room), subscribe(socket, { target: "other" })];
    await isConfirmed(lost);
    server.backend.clients.set("alice", [{ target: "message" }]);
    await server.control({ action: "reauthorize", user: "alice" });
    assert.deepEqual(await logs(lost, "error"), [{ message: "no-longer-allowed" }]);
    await until("the rooms are told", () => socket.told("allowed_rooms").length === 2);
    assert.deepEqual(socket.allowedRooms, [{ target: "message" }]);
    await server.control({ action: "unsubscribe", user: "alice", room });
    assert.deepEqual(await logs(kept, "error"), [{ message: "by-application" }]);
    assert.deepEqual([socket.subscriptions, socket.state], [[], "open"]);
  });

  it("are asked for with the token, whatever letters it has", async (t) => {
    const server = await Server.start(t);
    await isOpen(connect(t, server, { token: "a&b=c d+e" }));
    assert.deepEqual(server.backend.asked, ["a&b=c d+e"]);
  });
});

describe("the end", { concurrency: 4 }, () => {
  const closes = (socket) => until("an end", () => socket.told("close")[0]);

  it("is final for who is not authorised, until connect() with another token", async (t) => {
    const server = await Server.start(t);
    server.backend.clients.set("alice", 403);
    const socket = connect(t, server);
    assert.deepEqual(await closes(socket), { code: 3500, reason: "not-authorized", willReconnect: false });
    assert.deepEqual([socket.state, socket.told("refused")], ["closed", [{ message: "not-authorized" }]]);
    socket.token = "bob";
    socket.connect();
    await isOpen(socket);
    assert.deepEqual(server.backend.asked, ["alice", "bob"]);
  });

  it("is final for whom the application disconnects", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    await isOpen(socket);
    await server.control({ action: "disconnect", user: "alice" });
    const { code, willReconnect } = await closes(socket);
    assert.deepEqual([code, willReconnect, socket.state], [3501, false, "closed"]);
    await assert.rejects(async () => {
      const sent = socket.send({ type: "status" });
      socket.connect();
      socket.close();
      await sent;
    }, /closed/);
  });

  it("is final for who says too much, or too much at once", async (t) => {
    const server = await Server.start(t, { MESSAGE_RATE: "1", MESSAGE_LIMIT: "1KiB" });
    const [many, large] = [connect(t, server), connect(t, server, { token: "bob" })];
    for (let i = 0; i < 20; i += 1) many.send({ type: "status" });
    large.send({ type: "status", data: "x".repeat(2000) });
    assert.deepEqual([(await closes(many)).code, many.state], [1008, "closed"]);
    assert.deepEqual([(await closes(large)).code, large.state], [1009, "closed"]);
  });

  it("by a stop is followed by a reconnection within the hint", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    await isOpen(socket);
    const stopped = server.stop();
    const { code, reason, willReconnect } = await closes(socket);
    assert.deepEqual([code, willReconnect], [1001, true]);
    const [, hint] = /^retry_after=(.*)$/.exec(reason);
    assert.ok(socket.told("waiting")[0].delay <= Number(hint) * 1000);
    await stopped;
    await server.launch();
    await isOpen(socket);
  });

  it("while the API is away is followed by attempts that keep to the hints", async (t) => {
    const server = await Server.start(t);
    server.backend.clients.set("alice", 503);
    const socket = connect(t, server);
    const hints = [];
    socket.on("message", ({ retry_after: hint }) => { if (hint) hints.push(hint * 1000); });
    await until("some attempts", () => socket.told("waiting").length >= 2);
    server.backend.clients.delete("alice");
    await isOpen(socket);
    assert.ok(hints.length >= 2);
    socket.told("waiting").forEach(({ delay }, i) => assert.ok(delay >= hints[i], `${delay} < ${hints[i]}`));
    assert.deepEqual(socket.told("refused")[0], { message: "try-later" });
    assert.equal(socket.told("close")[0].code, 1013);
  });

  it("of one connection too many is followed by others when there is room", async (t) => {
    const server = await Server.start(t, { MAX_CONNECTIONS_PER_USER: "1" });
    const first = connect(t, server);
    await isOpen(first);
    const second = connect(t, server);
    const { code, reason, willReconnect } = await closes(second);
    assert.deepEqual([code, reason, willReconnect], [1013, "too-many-connections", true]);
    assert.ok(second.told("waiting")[0].delay >= 1000);
    first.close();
    await until("the first one has gone", async () => await server.connections() === 0);
    second.connect();
    await isOpen(second);
  });

  it("comes when pings are not answered", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    const socket = connect(t, proxy, { pingInterval: 30, pongTimeout: 300 });
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    proxy.freeze();
    await server.trigger(room, 1);
    assert.deepEqual(await closes(socket), { code: 1006, reason: "no answer to a ping", willReconnect: true });
    assert.deepEqual(await logs(subscription, "recovered", 1), ["recovered", 1]);
  });

  it("comes by silence, and not as long as there are pings", async (t) => {
    const server = await Server.start(t, { IDLE_TIMEOUT: "1s", PING_INTERVAL: "1h" });
    let pings = 0;
    class Counting extends WebSocket {
      send(text) {
        pings += text === "ping" ? 1 : 0;
        super.send(text);
      }
    }
    const lively = connect(t, server, { pingInterval: 100, pongTimeout: 5000, WebSocket: Counting });
    const silent = connect(t, server);
    const { code, willReconnect } = await closes(silent);
    assert.deepEqual([code, willReconnect], [3503, true]);
    await until("two seconds' pings", () => pings > 20);
    assert.deepEqual([lively.state, lively.told("close")], ["open", []]);
  });
});

describe("a way to the server", { concurrency: 4 }, () => {
  it("is found among several", async (t) => {
    const server = await Server.start(t);
    const nobody = `ws://127.0.0.1:${await freePort()}/ws/`;
    const socket = connect(t, { url: [nobody, server.url] });
    await isOpen(socket);
    assert.equal(socket.told("close").length, 1);
  });

  it("is tried for ever, with waits that grow and are cut short by connect()", async (t) => {
    const url = `ws://127.0.0.1:${await freePort()}/ws/`;
    const socket = connect(t, { url }, { reconnectInterval: 5, maxReconnectInterval: 40 });
    await until("many attempts", () => socket.told("close").length >= 12);
    assert.ok(socket.told("close").every(({ code, willReconnect }) => code === 1006 && willReconnect));
    assert.ok(socket.told("waiting").every(({ delay }, i) => delay <= Math.min(40, 5 * 2 ** i)));
    socket.maxReconnectInterval = socket.reconnectInterval = 2 ** 30;
    await until("a long wait", () => socket.state === "waiting" && socket.told("waiting").at(-1).delay > 1000);
    const before = socket.told("close").length;
    socket.connect();
    await until("another attempt", () => socket.told("close").length > before);
  });

  it("is tried at once when the browser is online again", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    const { emit } = page(t);
    proxy.sockets = proxy.streams = "refuse";
    const socket = connect(t, proxy, { reconnectInterval: 2 ** 30, maxReconnectInterval: 2 ** 30 });
    await until("it waits", () => socket.state === "waiting");
    proxy.sockets = "pass";
    emit("online");
    await isOpen(socket);
  });

  it("is given up when it hangs", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = "hang";
    const socket = connect(t, proxy, { connectTimeout: 100, sseUrl: null });
    await until("an end", () => socket.told("close").length > 0);
    assert.equal(socket.told("close")[0].reason, "no answer to the handshake");
    proxy.sockets = "pass";
    await isOpen(socket);
  });

  it("is the page's own host unless told", async (t) => {
    const urls = [];
    class Recorder { constructor(url) { urls.push(url); } close() {} }
    t.after(() => { delete globalThis.location; });
    assert.throws(() => new Socket({ WebSocket: Recorder }), /url is missing/);
    for (const href of ["https://app.example.org/a/b?c#d", "http://localhost:3000/"]) {
      globalThis.location = new URL(href);
      new Socket({ WebSocket: Recorder }).close();
      new Socket({ WebSocket: Recorder, url: "/live/ws/", token: "t" }).close();
    }
    assert.deepEqual(urls, [
      "wss://app.example.org/ws/", "wss://app.example.org/live/ws/?token=t",
      "ws://localhost:3000/ws/", "ws://localhost:3000/live/ws/?token=t",
    ]);
    assert.throws(() => new Socket({ url: "ftp://x/ws/", WebSocket: Recorder }), /not the url of a WebSocket/);
    assert.throws(() => new Socket({ url: [], WebSocket: Recorder }), /empty/);
  });
});

describe("an application", { concurrency: 4 }, () => {
  it("that throws disturbs neither its other handlers nor the connection", async (t) => {
    const server = await Server.start(t);
    const report = t.mock.method(console, "error", () => {});
    const socket = connect(t, server);
    const problem = () => { throw new Error("a bug"); };
    for (const event of ["open", "message", "state", "allowed_rooms"]) socket.on(event, problem);
    const bad = subscribe(socket, room, { onPublish: problem });
    const good = subscribe(socket, room);
    await isConfirmed(good);
    await server.trigger(room, 1);
    assert.deepEqual(await logs(good, 1), [1]);
    assert.equal(socket.state, "open");
    assert.ok(bad.position === good.position && report.mock.callCount() >= 6);
  });

  it("of spine-high-templar's finds what it knows", async (t) => {
    const server = await Server.start(t);
    const socket = new Socket({ url: server.url, WebSocket, token: "alice", pingInterval: 20, reconnectInterval: 10 });
    t.after(() => socket.close());
    const [messages, opens] = [[], []];
    const handler = (frame) => messages.push(frame);
    socket.on("message", handler);
    socket.on("open", () => opens.push(socket.subscriptions.length));
    const published = [];
    const subscription = socket.subscribe({ room, onPublish: (frame) => published.push(frame), onReconnect: () => {} });
    await socket.send({ type: "subscribe", room, requestId: "mine" });
    const status = socket.send({ type: "status", requestId: "s" });
    await Promise.all([status, until("the status", () => messages.some((frame) => frame.requestId === "s"))]);
    await server.trigger(room, 1);
    await until("both", () => messages.filter(({ type }) => type === "publish").length === 2);
    assert.deepEqual(published.map(({ data, requestId }) => [data, requestId]), [[1, subscription.requestId]]);
    assert.deepEqual([socket.pingInterval, socket.reconnectInterval, opens.length], [20, 10, 1]);
    await socket.send({ type: "unsubscribe", requestId: "mine" });
    await socket.unsubscribe(subscription);
    socket.off("message", handler);
    const before = messages.length;
    await server.trigger(room, 2);
    await socket.send({ type: "status" });
    assert.deepEqual([messages.length, published.length, socket.subscriptions], [before, 1, []]);
    await assert.rejects(socket.send({ type: "subscribe", room }), /requestId/);
  });

  it("may subscribe, unsubscribe and close in every handler", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    const before = subscribe(socket, room);
    let within;
    socket.on("open", () => {
      socket.unsubscribe(before);
      within = subscribe(socket, room, { onPublish: () => socket.close() });
    });
    await until("the subscription is confirmed", () => within?.position);
    await server.trigger(room, 1);
    await until("it is closed", () => socket.state === "closed");
    assert.deepEqual([before.log, socket.subscriptions], [[], [within]]);
    assert.deepEqual(socket.told("error"), []);
  });
});
