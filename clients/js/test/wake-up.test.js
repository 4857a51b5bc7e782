// Pages that sleep, and the connection they find when they wake up.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { connect, isConfirmed, isOpen, logs, subscribe } from "./support/client.js";
import { page } from "./support/page.js";
import { until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { obey, script } from "./support/script.js";
import { Server } from "./support/server.js";

const room = { target: "message" };
const FOR_EVER = { reconnectInterval: 2 ** 30, maxReconnectInterval: 2 ** 30 };

/** A page whose clock goes on by `page.sleep(seconds)`. Timers know nothing of it. */
function sleepy(t) {
  const now = Date.now;
  let slept = 0;
  t.mock.method(Date, "now", () => now() + slept);
  const sleeping = page(t);
  return Object.assign(sleeping, {
    pass: (seconds) => { slept += seconds * 1000; },
    sleep(seconds) {
      sleeping.left();
      sleeping.pass(seconds);
      sleeping.back();
    },
  });
}

async function setUp(t, options) {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server.port);
  const socket = connect(t, proxy, options);
  const subscription = subscribe(socket, room);
  await isConfirmed(subscription);
  return { server, proxy, socket, subscription };
}

describe("a page that wakes up", () => {
  it("notices a dead connection at once, and gets what it has missed", async (t) => {
    const { sleep } = sleepy(t);
    const { server, proxy, socket, subscription } = await setUp(t, FOR_EVER);
    proxy.freeze();
    await server.trigger(room, 1);
    const began = performance.now();
    sleep(50);
    assert.deepEqual(await logs(subscription, "recovered", 1), ["recovered", 1]);
    t.diagnostic(`current after ${Math.round(performance.now() - began)} ms`);
    assert.deepEqual(socket.told("close"), [{ code: 1006, reason: "no answer to a ping", willReconnect: true }]);
    assert.deepEqual(socket.told("waiting"), [{ delay: 0 }]);
  });

  it("keeps a connection that answers, and does not ask before it has been away for seconds", async (t) => {
    const { sleep } = sleepy(t);
    const server = await script(t, (connection) => {
      obey(connection);
      connection.on("message", (text) => { if (String(text) === "ping") connection.send("pong"); });
    });
    const socket = connect(t, server);
    await isConfirmed(subscribe(socket, room));
    const pings = () => server.said[0].filter((text) => text === "ping").length;
    sleep(2.9);
    sleep(3);
    await until("a ping", () => pings() > 0);
    sleep(100);
    await until("another ping", () => pings() === 2);
    await new Promise((resolve) => { setTimeout(resolve, 600); }); // longer than a probe may take
    assert.deepEqual([pings(), socket.state, socket.told("close")], [2, "open", []]);
  });

  it("is not deceived by frames and pongs from before the connection was lost", async (t) => {
    const { sleep } = sleepy(t);
    const server = await script(t, (connection, number) => {
      obey(connection);
      connection.on("message", (text) => {
        if (String(text) !== "ping" || number > 0) return;
        // Of two pings it answers the first one only, late and between other frames.
        connection.pings = (connection.pings ?? 0) + 1;
        connection.tell({ type: "of next year" });
        if (connection.pings === 2) connection.send("pong");
        connection.tell({ type: "of next year" });
      });
    });
    const socket = connect(t, server, { pingInterval: 300 });
    await isOpen(socket);
    await until("the first ping", () => server.connections[0].pings === 1);
    socket.pingInterval = 2 ** 30;
    sleep(50);
    await until("another connection", () => server.connections.length === 2);
    assert.equal(server.connections[0].pings, 2);
    assert.equal(socket.told("close")[0].reason, "no answer to a ping");
  });

  for (const [names, what] of [[["blur", "focus"]], [["pagehide", "pageshow"]], [["offline", "online"]]]) {
    it(`by ${names[1]} does not wait any longer`, async (t) => {
      const { emit, pass } = sleepy(t);
      const { proxy, socket } = await setUp(t, FOR_EVER);
      proxy.sockets = proxy.streams = "refuse";
      proxy.cut();
      await until("it waits", () => socket.state === "waiting");
      proxy.sockets = "pass";
      emit(names[0]);
      pass(4);
      emit(names[1]);
      await isOpen(socket);
    });
  }

  it("by resume does not wait any longer, be it in the background", async (t) => {
    const { left, pass } = sleepy(t);
    const { proxy, socket } = await setUp(t, FOR_EVER);
    for (let round = 0; round < 2; round += 1) {
      proxy.sockets = "refuse";
      proxy.cut();
      await until("it waits", () => socket.state === "waiting");
      proxy.sockets = "pass";
      left();
      pass(4);
      document.dispatchEvent(new Event("resume"));
      await isOpen(socket);
    }
  });

  it("begins an attempt anew that it had begun before", async (t) => {
    const { sleep } = sleepy(t);
    const { proxy, socket } = await setUp(t, { connectTimeout: 2 ** 30, sseUrl: null });
    proxy.sockets = "hang";
    proxy.cut();
    await until("an attempt hangs", () => proxy.asked.length === 2 && socket.state === "connecting");
    proxy.sockets = "pass";
    sleep(50);
    await isOpen(socket);
    assert.equal(proxy.asked.length, 3);
  });

  it("leaves its event stream as it is when its window was only without the focus", async (t) => {
    const { emit, pass } = sleepy(t);
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = "refuse";
    const socket = connect(t, proxy);
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    const { length } = proxy.asked;
    for (const name of ["blur", "focus"]) {
      emit(name);
      pass(4);
    }
    await server.trigger(room, 1);
    assert.deepEqual(await logs(subscription, 1), [1]);
    assert.equal(proxy.asked.length, length);
  });

  it("opens its event stream anew, and nothing is lost, doubled or told", async (t) => {
    const { sleep } = sleepy(t);
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = "refuse";
    const socket = connect(t, proxy);
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    await server.trigger(room, 1);
    await logs(subscription, 1);
    proxy.freeze();
    await server.trigger(room, 2);
    sleep(10);
    assert.deepEqual(await logs(subscription, 1, 2), [1, 2]);
    assert.deepEqual([socket.told("close"), socket.told("open").length], [[], 1]);
  });

  it("gives up a snapshot that was asked for before it slept", async (t) => {
    const { sleep } = sleepy(t);
    const { socket } = await setUp(t);
    let calls = 0;
    const snapshot = () => ((calls += 1) === 1 ? new Promise(() => {}) : { position: null });
    const feed = socket.feed({ snapshot, room, onSnapshot() {}, onPublish() {} });
    t.after(() => feed.close());
    await until("the first call", () => calls === 1);
    sleep(50);
    await until("a snapshot", () => feed.room);
  });
});

describe("without a page", () => {
  it("late timers show that the process has slept", async (t) => {
    const { pass } = sleepy(t);
    const { server, proxy, subscription } = await setUp(t, { pingInterval: 400, pongTimeout: 2 ** 30 });
    proxy.freeze();
    pass(600);
    await server.trigger(room, 1);
    assert.deepEqual(await logs(subscription, "recovered", 1), ["recovered", 1]);
  });

  it("the application can say so", async (t) => {
    const { server, proxy, socket, subscription } = await setUp(t, { pingInterval: 2 ** 30 });
    proxy.freeze();
    await server.trigger(room, 1);
    socket.wake();
    assert.deepEqual(await logs(subscription, "recovered", 1), ["recovered", 1]);
  });
});
