// A server of 3.1, which knows neither the subprotocol nor event streams.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import WebSocket from "ws";
import { connect, isOpen, logs, subscribe } from "./support/client.js";
import { until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { Server } from "./support/server.js";

const room = { target: "message" };

async function old(t, settings) {
  const server = await Server.start(t, settings);
  const proxy = await Proxy.start(t, server.port);
  proxy.stripsSubprotocol = true;
  proxy.streams = "absent";
  return { server, proxy };
}

/** Replies do not name their request, so only what comes later shows that a subscription is there. */
async function listens(socket, subscription) {
  const replies = [];
  const count = (frame) => { if (frame.code) replies.push(frame); };
  socket.on("message", count);
  await socket.send({ type: "none" });
  await until("the last reply", () => replies.some(({ message }) => message === "message-type-not-allowed"));
  socket.off("message", count);
  return subscription;
}

describe("a server of 3.1", { concurrency: 4 }, () => {
  it("is found, and spoken to as it knows", async (t) => {
    const { server, proxy } = await old(t);
    server.backend.clients.set("alice", [room]);
    const socket = connect(t, proxy);
    const [refused, subscription] = [subscribe(socket, { target: "secret" }), subscribe(socket, room)];
    await isOpen(socket);
    assert.deepEqual([socket.transport, socket.protocol, socket.connection], ["websocket", "3.1", null]);
    assert.deepEqual([socket.allowedRooms, socket.told("allowed_rooms")], [[room], [[room]]]);
    await listens(socket, subscription);
    await server.trigger(room, 1);
    assert.deepEqual(await logs(subscription, 1), [1]);
    assert.deepEqual(refused.log, [{ message: "room-not-found" }]);
    assert.deepEqual(socket.subscriptions, [subscription]);
    // A socket of version 4 is tried once more, when it is known that the server is there.
    assert.deepEqual(proxy.asked, ["v4", "sse", "plain", "v4", "plain"]);
    await socket.unsubscribe(subscription);
    await listens(socket);
    await server.trigger(room, 2);
    assert.deepEqual([subscription.log, socket.told("close")], [[1], []]);
  });

  it("has its clients fetch again whenever they come back", async (t) => {
    const { server, proxy } = await old(t);
    const socket = connect(t, proxy);
    const subscription = subscribe(socket, room);
    await isOpen(socket);
    await listens(socket, subscription);
    assert.deepEqual(subscription.log, []);
    proxy.asked = [];
    await server.kill();
    await until("the loss is noticed", () => socket.state !== "open");
    await server.launch();
    assert.deepEqual(await logs(subscription, "reconnect"), ["reconnect"]);
    await server.trigger(room, 1);
    assert.deepEqual(await logs(subscription, "reconnect", 1), ["reconnect", 1]);
    assert.deepEqual(proxy.asked.slice(0, 1), ["plain"]);
    assert.equal(socket.protocol, "3.1");
  });

  it("that does not authorise is asked again and again", async (t) => {
    const { server, proxy } = await old(t);
    server.backend.clients.set("alice", 500);
    const socket = connect(t, proxy);
    const subscription = subscribe(socket, room);
    await until("some attempts", () => socket.told("refused").length >= 3);
    assert.deepEqual(socket.told("refused")[0], { message: "not-authorized" });
    assert.ok(socket.told("close").every(({ willReconnect }) => willReconnect));
    server.backend.clients.delete("alice");
    await isOpen(socket);
    await listens(socket, subscription);
    assert.deepEqual(subscription.log, []);
  });

  it("is found without an address for event streams", async (t) => {
    const { proxy } = await old(t);
    const socket = connect(t, proxy, { sseUrl: null });
    await isOpen(socket);
    assert.deepEqual([socket.protocol, proxy.asked], ["3.1", ["v4", "plain", "v4", "plain"]]);
  });

  it("is found at once by sockets that do not insist on the subprotocol", async (t) => {
    const { proxy } = await old(t);
    class Lenient extends WebSocket { constructor(url) { super(url); } }
    const socket = connect(t, proxy, { WebSocket: Lenient });
    await isOpen(socket);
    assert.deepEqual([socket.protocol, proxy.asked], ["3.1", ["plain"]]);
  });

  it("that is replaced by one of version 4 goes on being spoken to, and that one to the full after failures", async (t) => {
    const { proxy } = await old(t);
    const socket = connect(t, proxy, { reconnectInterval: 5, maxReconnectInterval: 20 });
    const subscription = subscribe(socket, room);
    await isOpen(socket);
    proxy.stripsSubprotocol = false;
    proxy.sockets = "refuse";
    proxy.cut();
    proxy.asked = [];
    await until("four failures", () => proxy.asked.includes("v4"));
    assert.deepEqual(proxy.asked.slice(0, 3), ["plain", "plain", "plain"]);
    proxy.sockets = "pass";
    await until("version 4", () => socket.protocol === "high-templar.v4");
    assert.deepEqual(await logs(subscription, "reconnect"), ["reconnect"]);
  });
});

describe("a server of version 4", { concurrency: 4 }, () => {
  it("is not taken for one of 3.1 because of a failure that passes", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.streams = "absent"; // by a proxy in front that passes /ws/ alone
    proxy.sockets = "refuse";
    proxy.onAsked = (what) => { if (what === "sse") proxy.sockets = "pass"; }; // just back
    const socket = connect(t, proxy);
    await isOpen(socket);
    assert.deepEqual([socket.protocol, proxy.asked], ["high-templar.v4", ["v4", "sse", "plain", "v4"]]);
  });

  it("is not taken for one of 3.1 while it is away", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = proxy.streams = "refuse";
    const socket = connect(t, proxy, { reconnectInterval: 5, maxReconnectInterval: 20 });
    await until("many attempts", () => proxy.asked.length >= 12);
    assert.ok(!proxy.asked.includes("plain"));
    proxy.sockets = proxy.streams = "pass";
    await isOpen(socket);
    assert.equal(socket.protocol, "high-templar.v4");
  });
});
