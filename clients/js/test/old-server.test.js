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
  proxy.isOld = () => true;
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
    assert.deepEqual(proxy.asked, ["v4", "plain"]);
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
    assert.equal(socket.protocol, "3.1");
    // It has been seen twice to be one of 3.1.
    proxy.asked = [];
    proxy.cut();
    assert.deepEqual(await logs(subscription, "reconnect", 1, "reconnect"), ["reconnect", 1, "reconnect"]);
    assert.deepEqual(proxy.asked, ["plain"]);
  });

  it("that does not authorise is asked again and again", async (t) => {
    const { server, proxy } = await old(t);
    server.backend.clients.set("alice", 403);
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
    assert.deepEqual([socket.protocol, proxy.asked], ["3.1", ["v4", "plain"]]);
  });

  it("is found at once by sockets that do not insist on the subprotocol", async (t) => {
    const { proxy } = await old(t);
    class Lenient extends WebSocket { constructor(url) { super(url); } }
    const socket = connect(t, proxy, { WebSocket: Lenient });
    await isOpen(socket);
    assert.deepEqual([socket.protocol, proxy.asked], ["3.1", ["plain"]]);
  });

  it("that is replaced by one of version 4 goes on being spoken to, and that one in version 4 after failures", async (t) => {
    const { proxy } = await old(t);
    const socket = connect(t, proxy, { reconnectInterval: 5, maxReconnectInterval: 20 });
    const subscription = subscribe(socket, room);
    await isOpen(socket);
    await listens(socket, subscription);
    proxy.cut();
    await logs(subscription, "reconnect");
    await isOpen(socket);
    proxy.isOld = () => false;
    proxy.sockets = "refuse";
    proxy.cut();
    proxy.asked = [];
    await until("four failures", () => proxy.asked.includes("v4"));
    assert.deepEqual(proxy.asked.slice(0, 3), ["plain", "plain", "plain"]);
    proxy.sockets = "pass";
    await until("version 4", () => socket.protocol === "high-templar.v4");
    assert.deepEqual(await logs(subscription, "reconnect", "reconnect"), ["reconnect", "reconnect"]);
  });
});

describe("a server of version 4", { concurrency: 4 }, () => {
  it("is not taken for one of 3.1 because of a failure that passes", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.streams = "absent"; // by a proxy in front that passes /ws/ alone
    proxy.sockets = "refuse";
    proxy.onAsked = (what) => { if (what === "plain") proxy.sockets = "pass"; }; // just back
    const socket = connect(t, proxy);
    await isOpen(socket);
    assert.deepEqual([socket.protocol, proxy.asked], ["high-templar.v4", ["v4", "plain", "v4"]]);
  });

  it("is not taken for one of 3.1 while it is away", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = proxy.streams = "refuse";
    const socket = connect(t, proxy, { reconnectInterval: 5, maxReconnectInterval: 20 });
    await until("many attempts", () => proxy.asked.length >= 12);
    assert.ok(proxy.asked.includes("sse"));
    proxy.sockets = proxy.streams = "pass";
    await isOpen(socket);
    assert.equal(socket.protocol, "high-templar.v4");
  });
});

describe("behind a balancer with servers of both versions", { concurrency: 4 }, () => {
  // Which kind of server each handshake in a row reaches, and what comes of it.
  for (const [kinds, asked, protocol] of [
    ["new", ["v4"], "high-templar.v4"],
    ["old old", ["v4", "plain"], "3.1"],
    ["old new new", ["v4", "plain", "v4"], "high-templar.v4"],
    ["old new old new", ["v4", "plain", "v4", "plain"], "3.1"],
    ["old new old old", ["v4", "plain", "v4", "plain"], "3.1"],
  ]) {
    it(`a page that reaches ${kinds} comes, and comes back, without a pause or an event stream`, async (t) => {
      const server = await Server.start(t);
      const proxy = await Proxy.start(t, server.port);
      const waits = { reconnectInterval: 20, maxReconnectInterval: 20 };
      const socket = connect(t, proxy, waits);
      const subscription = subscribe(socket, room);
      await isOpen(socket);
      const queue = kinds.split(" ");
      proxy.isOld = () => queue.shift() === "old";
      proxy.asked = [];
      proxy.cut();
      await until("it is away", () => socket.told("close").length === 1);
      await isOpen(socket);
      assert.deepEqual([proxy.asked, socket.protocol, socket.told("waiting").length], [asked, protocol, 1]);
      await until("it has been told", () => subscription.log.length === 1 || protocol === "3.1");
      await listens(socket, subscription);
      await server.trigger(room, 1);
      await until("the publication", () => subscription.log.at(-1) === 1);
    });
  }

  it("many pages come at their first connection, and come back at each restart", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    let turn = 0;
    proxy.isOld = () => (turn += 1) % 2 === 0;
    const sockets = Array.from({ length: 20 }, (_, i) => connect(t, proxy, { token: `user${i}` }));
    const subscriptions = sockets.map((socket) => subscribe(socket, room));
    for (let restart = 1; restart <= 3; restart += 1) {
      for (const [i, socket] of sockets.entries()) {
        await isOpen(socket);
        await listens(socket, subscriptions[i]);
      }
      assert.ok(sockets.every((socket) => socket.transport === "websocket" && socket.told("waiting").length === restart - 1));
      await server.trigger(room, restart);
      for (const { log } of subscriptions) await until("the publication", () => log.at(-1) === restart);
      proxy.cut();
      await until("all are away", () => sockets.every((socket) => socket.told("close").length === restart));
    }
    assert.ok(!proxy.asked.includes("sse"));
  });

  it("a page goes on with version 4 when the last server of 3.1 has gone", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.isOld = () => true;
    const socket = connect(t, proxy);
    await isOpen(socket);
    assert.equal(socket.protocol, "3.1");
    proxy.isOld = () => false;
    proxy.cut();
    await until("version 4", () => socket.protocol === "high-templar.v4");
  });
});
