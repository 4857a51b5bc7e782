// By event stream, where sockets are blocked, against the server.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { describe, it } from "node:test";
import { EventStreamLink } from "../src/event-stream-link.js";
import { connect, isConfirmed, isOpen, logs, subscribe } from "./support/client.js";
import { listen, until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { Server } from "./support/server.js";

const room = { target: "message" };

/** A server behind a proxy that lets no sockets through. */
async function blocked(t, { settings, sockets = "refuse" } = {}) {
  const server = await Server.start(t, settings);
  const proxy = await Proxy.start(t, server.port);
  proxy.sockets = sockets;
  return { server, proxy };
}

describe("where sockets are blocked", { concurrency: 4 }, () => {
  for (const sockets of ["refuse", "hang", "absent"]) {
    it(`publications come by event stream (${sockets})`, async (t) => {
      const { server, proxy } = await blocked(t, { sockets });
      const socket = connect(t, proxy, { connectTimeout: 200 });
      const subscription = subscribe(socket, room);
      await isConfirmed(subscription);
      assert.deepEqual([socket.state, socket.transport, socket.protocol], ["open", "sse", "high-templar.v4"]);
      assert.match(socket.connection, /^[0-9a-f-]{36}$/);
      await server.trigger(room, "many\nlines");
      await server.trigger(room, { text: "é\r\n" });
      assert.deepEqual(await logs(subscription, 1, 2), ["many\nlines", { text: "é\r\n" }]);
      // One that hangs once would hang again.
      assert.deepEqual(proxy.asked, sockets === "hang" ? ["v4", "sse"] : ["v4", "plain", "sse"]);
      assert.deepEqual(socket.told("close"), []);
      assert.deepEqual(server.backend.asked, ["alice"]);
    });
  }

  it("frames carry the requestIds of their subscriptions", async (t) => {
    const { server, proxy } = await blocked(t);
    const socket = connect(t, proxy);
    const frames = [];
    socket.on("message", (frame) => frames.push(frame));
    const subscriptions = [1, 2, 3].map((target) => subscribe(socket, { target }));
    await isConfirmed(subscriptions[2]);
    await server.trigger({ target: 2 }, "x");
    await logs(subscriptions[1], "x");
    const ids = subscriptions.map(({ requestId }) => requestId);
    assert.deepEqual(frames.map(({ type, requestId }) => [type, requestId]), [
      ["welcome", undefined], ["reply", ids[0]], ["reply", ids[1]], ["reply", ids[2]], ["publish", ids[1]],
    ]);
  });

  it("what was missed comes once and in order after kills, stops and cuts", async (t) => {
    const { server, proxy } = await blocked(t);
    const socket = connect(t, proxy);
    const [first, second] = [subscribe(socket, room), subscribe(socket, { target: "second" })];
    await isConfirmed(second);
    let last = 0;
    for (const how of ["kill", "stop", "kill"]) {
      for (let i = 0; i < 10; i += 1) await server.trigger(room, last += 1);
      await isOpen(socket); // again, after a cut
      await server[how]();
      await until("the loss is noticed", () => socket.state !== "open");
      await server.launch();
      for (let i = 0; i < 10; i += 1) await server.trigger(room, last += 1);
      await isOpen(socket);
      proxy.cut();
    }
    await until("the last one", () => first.log.includes(last));
    assert.deepEqual(first.log.filter((entry) => entry !== "recovered"), Array.from({ length: 60 }, (_, i) => i + 1));
    assert.ok(first.log.includes("recovered") && second.log.every((entry) => entry === "recovered"));
    assert.ok(socket.told("close").some(({ code, reason }) => code === 1001 && reason.startsWith("retry_after=")));
    assert.ok(proxy.asked.filter((way) => way === "v4").length <= 2, `${proxy.asked}`);
  });

  it("rooms come and go while publications go on", async (t) => {
    const { server, proxy } = await blocked(t);
    const socket = connect(t, proxy);
    const kept = subscribe(socket, room);
    await isConfirmed(kept);
    const others = [];
    let last = 0;
    for (let round = 0; round < 5; round += 1) {
      const triggers = (async () => { for (let i = 0; i < 10; i += 1) await server.trigger(room, last += 1); })();
      const [left, right] = [subscribe(socket, { target: "a" }), subscribe(socket, { target: round })];
      await socket.unsubscribe(left);
      others.push(right);
      await isConfirmed(right);
      await triggers;
    }
    await server.trigger({ target: 0 }, "to the first");
    await server.trigger(room, "end");
    await until("the end", () => kept.log.includes("end"));
    assert.deepEqual(kept.log, [...Array.from({ length: 50 }, (_, i) => i + 1), "end"]);
    assert.deepEqual(others[0].log, ["to the first"]);
    assert.deepEqual(proxy.asked, ["v4", "plain", ...Array(6).fill("sse")]);
    assert.deepEqual(["open", "allowed_rooms", "close"].map((event) => socket.told(event).length), [1, 1, 0]);
  });

  it("publications between two streams are told as missed where the server cannot know them", async (t) => {
    const { proxy } = await blocked(t);
    const socket = connect(t, proxy);
    const kept = subscribe(socket, room);
    await isConfirmed(kept);
    const asked = proxy.asked.length;
    kept.position = "000000000000:1"; // of another log
    const added = subscribe(socket, { target: "added" });
    assert.deepEqual(await logs(kept, "reconnect"), ["reconnect"]);
    await isConfirmed(added);
    assert.deepEqual([added.log, proxy.asked.length], [[], asked + 1]);
  });

  it("a room that is refused ends alone", async (t) => {
    const { server, proxy } = await blocked(t);
    server.backend.clients.set("alice", [room, { target: "other" }]);
    const socket = connect(t, proxy);
    const [first, refused, third] = [room, { target: "secret" }, { target: "other" }].map((each) => subscribe(socket, each));
    await isConfirmed(third);
    const [{ message, detail }] = refused.log;
    assert.equal(message, "room-not-found");
    assert.match(detail, /nearest/);
    assert.deepEqual(socket.subscriptions, [first, third]);
    const again = subscribe(socket, { target: "secret" });
    await server.trigger(room, 1);
    assert.deepEqual(await logs(first, 1), [1]);
    assert.equal((await logs(again, "error"))[0].message, "room-not-found");
    assert.deepEqual([first.log, third.log, socket.told("open").length], [[1], [], 1]);
  });

  it("rooms that are taken away end", async (t) => {
    const { server, proxy } = await blocked(t);
    server.backend.clients.set("alice", [room, { target: "other" }]);
    const socket = connect(t, proxy);
    const [kept, lost] = [subscribe(socket, room), subscribe(socket, { target: "other" })];
    await isConfirmed(lost);
    server.backend.clients.set("alice", [room]);
    await server.control({ action: "reauthorize", user: "alice" });
    assert.deepEqual(await logs(lost, "error"), [{ message: "no-longer-allowed" }]);
    await server.trigger(room, 1);
    assert.deepEqual(await logs(kept, 1), [1]);
    await server.control({ action: "disconnect", user: "alice" });
    await until("it is closed", () => socket.state === "closed");
    assert.equal(socket.told("close")[0].code, 3501);
  });

  it("the newest rooms of too many are refused", async (t) => {
    const { server, proxy } = await blocked(t, { settings: { URL_LIMIT: "1KiB", MAX_SUBSCRIPTIONS: "3" } });
    const socket = connect(t, proxy);
    const long = [1, 2].map((target) => subscribe(socket, { target, padding: "x".repeat(600) }));
    server.backend.clients.set("alice", [{ target: "*", padding: "*" }, { target: "*" }]);
    await isConfirmed(long[0]);
    assert.equal(long[1].log[0].message, "url-too-long");
    const before = proxy.targets.length;
    const short = [3, 4, 5, 6, 7].map((target) => subscribe(socket, { target }));
    await isConfirmed(short[1]);
    for (const each of short.slice(2)) assert.equal((await logs(each, "error"))[0].message, "too-many-subscriptions");
    assert.equal(proxy.targets.length - before, 2, "the refusal says how many there may be");
    assert.deepEqual(socket.subscriptions, [long[0], short[0], short[1]]);
    assert.deepEqual([long[0].log, socket.told("close")], [[], []]);
  });

  const many = (count) => Array.from({ length: count }, (_, i) => ({ target: `message-${i}`, x: "1" }));

  it("as many rooms as fit at first fit when they go on, and nobody misses anything", async (t) => {
    const { server, proxy } = await blocked(t);
    server.backend.clients.set("alice", [{ target: "*", x: "1" }]);
    const socket = connect(t, proxy);
    const subscriptions = many(110).map((each) => subscribe(socket, each));
    await isConfirmed(subscriptions[109]);
    await server.kill();
    await server.launch();
    await server.trigger(subscriptions[3].room, 1);
    await logs(subscriptions[3], "recovered", 1);
    subscriptions.push(subscribe(socket, many(111)[110]));
    await isConfirmed(subscriptions[110]);
    await server.trigger(subscriptions[0].room, 2);
    await logs(subscriptions[0], "recovered", 2);
    assert.equal(socket.subscriptions.length, 111);
    assert.deepEqual(subscriptions.slice(4).flatMap(({ log }) => log).filter((entry) => entry !== "recovered"), []);
    assert.ok(proxy.targets.every((target) => target.length < 8192));
  });

  it("who has been confirmed rather misses something, and is told so, than to be over", async (t) => {
    const { server, proxy } = await blocked(t, { settings: { URL_LIMIT: "1KiB" } });
    server.backend.clients.set("alice", [{ target: "*", x: "*" }]);
    const socket = connect(t, proxy);
    const kept = many(12).map((each) => subscribe(socket, each));
    await isConfirmed(kept[11]);
    for (const [i, { room: each }] of kept.entries()) await server.trigger(each, i);
    await logs(kept[11], 11);
    const added = subscribe(socket, { target: "one-more", x: "1" });
    await isConfirmed(added);
    assert.deepEqual(kept.map(({ log }) => log), kept.map((_, i) => [i, "reconnect"]));
    const large = subscribe(socket, { target: "large", x: "x".repeat(1000) });
    assert.equal((await logs(large, "error"))[0].message, "url-too-long");
    await server.trigger(kept[0].room, "on");
    await until("it goes on", () => kept[0].log.includes("on"));
    assert.deepEqual(socket.subscriptions, [...kept, added]);
  });

  it("who subscribes all the time is confirmed all the same, by few requests", async (t) => {
    const { server, proxy } = await blocked(t);
    server.backend.delay = 300;
    const socket = connect(t, proxy);
    const subscriptions = [subscribe(socket, room)];
    const steadily = setInterval(() => subscriptions.push(subscribe(socket, { target: subscriptions.length })), 50);
    t.after(() => clearInterval(steadily));
    await until("20 of them", () => subscriptions.length >= 20);
    assert.ok(subscriptions[5].position, "the first ones are confirmed meanwhile");
    server.backend.delay = 0;
    await until("40 of them", () => subscriptions.length >= 40);
    clearInterval(steadily);
    await isConfirmed(subscriptions.at(-1));
    assert.ok(proxy.asked.length < 13, `${proxy.asked.length} requests`);
    await server.trigger(room, 1);
    assert.deepEqual(await logs(subscriptions[0], 1), [1]);
    assert.deepEqual([socket.told("open").length, socket.told("close")], [1, []]);
  });

  it("who takes over the requestId of another one gets nothing of its room", async (t) => {
    const { server, proxy } = await blocked(t);
    const socket = connect(t, proxy);
    const kept = subscribe(socket, room);
    await isConfirmed(kept);
    await socket.send({ type: "subscribe", room: { target: "old" }, requestId: "mine" });
    const [old] = socket.subscriptions.slice(-1);
    await isConfirmed(old);
    server.backend.delay = 300;
    const got = [];
    socket.on("message", (frame) => { if (frame.requestId === "mine") got.push(frame.type); });
    const third = subscribe(socket, { target: "third" }); // opens another stream, which has the old one in it
    const asked = proxy.asked.length;
    await until("it is opened", () => proxy.asked.length > asked);
    await socket.unsubscribe(old);
    await socket.send({ type: "subscribe", room: { target: "new" }, requestId: "mine" });
    const added = socket.subscriptions.find(({ requestId }) => requestId === "mine");
    await isConfirmed(third);
    assert.equal(added.position, undefined);
    await isConfirmed(added);
    await server.trigger({ target: "old" }, 1);
    await server.trigger(room, 2);
    await logs(kept, 2);
    assert.deepEqual(got, ["reply"]);
  });

  it("who is not authorised is told so", async (t) => {
    const { server, proxy } = await blocked(t);
    server.backend.clients.set("alice", 401);
    const socket = connect(t, proxy);
    subscribe(socket, room);
    await until("it is closed", () => socket.state === "closed");
    assert.deepEqual(socket.told("refused"), [{ message: "not-authorized", status: 401 }]);
    assert.deepEqual(socket.told("close"), [{ code: 3500, reason: "not-authorized", willReconnect: false }]);
  });

  it("hints when to come back are kept to", async (t) => {
    const { server, proxy } = await blocked(t);
    server.backend.clients.set("alice", 503);
    const socket = connect(t, proxy);
    const subscription = subscribe(socket, room);
    await until("it waits", () => socket.told("waiting").length > 0);
    assert.ok(socket.told("waiting")[0].delay >= 1000);
    assert.deepEqual(socket.told("refused")[0], { message: "try-later", status: 503 });
    server.backend.clients.delete("alice");
    await isConfirmed(subscription);
  });

  it("there is a connection only as long as there are subscriptions", async (t) => {
    const { server, proxy } = await blocked(t);
    const socket = connect(t, proxy, { maxReconnectInterval: 2 ** 30 });
    await until("it rests", () => socket.state === "waiting");
    const [first, second] = [subscribe(socket, room), subscribe(socket, room)];
    await isConfirmed(second);
    assert.equal(socket.state, "open");
    await assert.rejects(socket.send({ type: "status" }), /event stream/);
    await socket.send({ type: "subscribe", room, requestId: "mine" });
    await socket.send({ type: "unsubscribe", requestId: "mine" });
    await Promise.all([socket.unsubscribe(first), socket.unsubscribe(second)]);
    await until("it rests", () => socket.state === "waiting");
    assert.deepEqual([socket.transport, socket.connection], [null, null]);
    assert.equal(socket.told("close").at(-1).reason, "no subscriptions");
    await until("the server knows", async () => await server.connections() === 0);
    const third = subscribe(socket, room);
    await isConfirmed(third);
    assert.deepEqual([...first.log, ...second.log, ...third.log], []);
  });

  it("without subscriptions sockets are tried, and nobody hears of it until one works", async (t) => {
    const { proxy } = await blocked(t);
    const socket = connect(t, proxy, { maxReconnectInterval: 20 });
    await until("it rests", () => socket.state === "waiting");
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    await socket.unsubscribe(subscription);
    await until("it rests again", () => socket.state === "waiting");
    const [events, asked] = [socket.events.length, proxy.asked.length];
    await until("some attempts", () => proxy.asked.length >= asked + 5);
    assert.deepEqual(socket.events.slice(events), []);
    assert.deepEqual([...new Set(proxy.asked.slice(asked))], ["v4", "plain"]);
    proxy.sockets = "pass";
    await isOpen(socket);
    assert.deepEqual(socket.events.slice(events).map(([event]) => event), ["state", "open", "allowed_rooms"]);
    assert.equal(socket.transport, "websocket");
  });

  it("without sockets nothing is asked without subscriptions", async (t) => {
    const { proxy } = await blocked(t);
    // No `WebSocket` at all: neither that of `ws` nor the global one.
    const socket = connect(t, proxy, { WebSocket: null, maxReconnectInterval: 20 });
    const [first, second] = [subscribe(socket, room), subscribe(socket, { target: "second" })];
    await isConfirmed(second);
    await Promise.all([socket.unsubscribe(first), socket.unsubscribe(second)]);
    await until("it rests", () => socket.state === "waiting");
    await isConfirmed(subscribe(socket, room));
    assert.deepEqual(proxy.asked, ["sse", "sse"]);
    assert.ok(proxy.targets.every((target) => target.includes("room=")));
  });

  it("none is asked for where the application wants none", async (t) => {
    const { proxy } = await blocked(t);
    const socket = connect(t, proxy, { sseUrl: null });
    subscribe(socket, room);
    await until("some attempts", () => proxy.asked.length > 5);
    assert.ok(!proxy.asked.includes("sse"));
  });

  it("another address is asked where the application names one", async (t) => {
    const { server, proxy } = await blocked(t);
    const socket = connect(t, proxy, { sseUrl: `http://127.0.0.1:${server.port}/sse/`, token: "a b" });
    await isConfirmed(subscribe(socket, room));
    assert.deepEqual([socket.transport, proxy.asked, server.backend.asked], ["sse", ["v4", "plain"], ["a b"]]);
  });
});

describe("from one transport to the other", { concurrency: 4 }, () => {
  it("nothing is lost or doubled", async (t) => {
    const { server, proxy } = await blocked(t, { sockets: "pass" });
    const socket = connect(t, proxy, { reconnectInterval: 5, maxReconnectInterval: 20 });
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    assert.equal(socket.transport, "websocket");
    await server.trigger(room, 1);
    await logs(subscription, 1);
    proxy.sockets = "refuse";
    proxy.cut();
    await server.trigger(room, 2);
    await until("the event stream is open", () => socket.transport === "sse");
    await server.trigger(room, 3);
    // Sockets are faithful to what has worked for three failures.
    assert.deepEqual(proxy.asked, ["v4", ...Array(4).fill(["v4", "plain"]).flat(), "sse"]);
    await logs(subscription, 1, "recovered", 2, 3);
    proxy.sockets = "pass";
    proxy.streams = "refuse";
    proxy.cut();
    await server.trigger(room, 4);
    await until("the socket is open", () => socket.transport === "websocket");
    await server.trigger(room, 5);
    const expected = [1, "recovered", 2, 3, "recovered", 4, 5];
    assert.deepEqual(await logs(subscription, ...expected), expected);
  });

  it("nothing is tried but what has worked as long as the server is away for a moment", async (t) => {
    const { server, proxy } = await blocked(t);
    const socket = connect(t, proxy, { reconnectInterval: 5, maxReconnectInterval: 20 });
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    proxy.streams = "refuse";
    proxy.cut();
    await until("three failures", () => proxy.asked.length >= 6);
    assert.deepEqual(proxy.asked.slice(0, 6), ["v4", "plain", "sse", "sse", "sse", "sse"]);
    proxy.streams = "pass";
    await server.trigger(room, 1);
    assert.deepEqual(await logs(subscription, "recovered", 1), ["recovered", 1]);
    assert.equal(socket.transport, "sse");
  });
});

describe("one stream", () => {
  /** The end of a stream of `frames`, written by a server that then does nothing more. */
  async function endOf(t, frames) {
    const server = createServer((_, response) => {
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.write(frames);
    });
    const port = await listen(server);
    t.after(() => { server.closeAllConnections(); server.close(); });
    const url = `http://127.0.0.1:${port}/sse/`;
    return new Promise((resolve) => {
      const handlers = { onWelcome() {}, onFrame() {}, onError() {}, onEnd: resolve };
      new EventStreamLink({ url, subscriptions: [], fetch, isReopened: false, resumes: true, isWanted: () => true }, handlers);
    });
  }

  // Servers let a stream that is to be continued end without its last chunk, so that no library takes it for complete.
  for (const finish of ["end", "destroy"]) {
    it(`goes on in another one when it ends with (${finish})`, async (t) => {
      const frame = (requestId, data, position) => `id: ${position}\ndata: ${JSON.stringify({ type: "publish", requestId, data, position })}\n\n`;
      const targets = [];
      const server = createServer((request, response) => {
        const number = targets.push(request.url) - 1;
        response.writeHead(200, { "Content-Type": "text/event-stream" });
        response.write('retry: 3000\n\ndata: {"type":"welcome","is_authorized":true,"allowed_rooms":[],"position":"e:1"}\n\n');
        response.write(`data: {"type":"reply","requestId":"0","code":"success","position":"e:${number + 1}","recovered":${number > 0}}\n\n`);
        response.write(frame("0", number, `e:${number + 2}`), () => {
          if (number === 0) setTimeout(() => response[finish](), 50);
        });
      });
      const port = await listen(server);
      t.after(() => { server.closeAllConnections(); server.close(); });
      const socket = connect(t, { url: `ws://127.0.0.1:${port}/ws/` }, { WebSocket: null });
      const subscription = subscribe(socket, room);
      assert.deepEqual(await logs(subscription, 0, "recovered", 1), [0, "recovered", 1]);
      assert.deepEqual(socket.told("close").map(({ code, willReconnect }) => [code, willReconnect]), [[1006, true]]);
      assert.match(targets[1], /since=e%3A2/);
    });
  }

  it("that is silent for three pings is broken", async (t) => {
    const frames = 'data: {"type":"welcome","is_authorized":true,"ping_interval":0.05}\n\n';
    assert.equal((await endOf(t, frames)).reason, "silent");
  });

  it("that begins otherwise than by a welcome is broken", async (t) => {
    assert.match((await endOf(t, 'data: {"type":"publish"}\n\n')).reason, /no welcome/);
  });
});
