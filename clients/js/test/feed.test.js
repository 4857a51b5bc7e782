// Feeds: a snapshot of the application's data, and everything published after it.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { connect, isConfirmed, isOpen, subscribe } from "./support/client.js";
import { until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { obey, script } from "./support/script.js";
import { Server } from "./support/server.js";

const room = { target: "message" };

/** An application that stores items, publishes them, and gives out snapshots of them. */
function application(server) {
  const app = { items: [], snapshots: 0, before: async () => {} };
  app.publish = async (...items) => {
    for (const item of items) {
      app.items.push(item);
      await server.trigger(room, item);
    }
  };
  app.snapshot = async () => {
    app.snapshots += 1;
    const position = await server.position();
    const items = [...app.items];
    await app.before();
    return { position, items };
  };
  return app;
}

/** A feed, with the items it has told, and a log of everything else. */
function follow(socket, app, options = {}) {
  const view = { items: [], log: [], told: 0 };
  view.feed = socket.feed({
    snapshot: app.snapshot,
    room,
    onSnapshot: ({ items }) => { view.items = [...items]; },
    onPublish: ({ data }) => { view.items.push(data); view.told += 1; },
    onError: ({ message }) => view.log.push(message),
    onRetry: ({ error, delay }) => view.log.push([error.message, delay]),
    ...options,
  });
  socket.after(() => view.feed.close());
  return view;
}

/** Waits until the view follows its room, so that no publication comes between a position and the data read after it. */
function isFollowing(view) {
  return until("the feed follows its room", () => view.feed.room);
}

/** Waits until the view shows everything, and checks that it shows it once and in order. */
async function isCurrent(view, app) {
  await until("the view is current", () => view.items.at(-1) === app.items.at(-1) && view.items.length >= app.items.length)
    .catch((error) => assert.deepEqual(view.items, app.items, error.message));
  assert.deepEqual(view.items, app.items);
}

const numbers = (first, count) => Array.from({ length: count }, (_, i) => first + i);

describe("a feed", { concurrency: 4 }, () => {
  it("shows a snapshot and what follows it, though much is published while it is fetched", async (t) => {
    const server = await Server.start(t);
    const app = application(server);
    await app.publish(...numbers(0, 5));
    app.before = () => app.publish(...numbers(5, 50));
    const view = follow(connect(t, server), app);
    await isCurrent(view, app);
    app.before = async () => {};
    for (let burst = 0; burst < 3; burst += 1) await app.publish(...numbers(100 * (burst + 1), 30));
    await isCurrent(view, app);
    assert.deepEqual([app.snapshots, view.told, view.feed.room], [1, 140, room]);
  });

  it("goes on without another snapshot where the server recovers", async (t) => {
    const server = await Server.start(t);
    const app = application(server);
    const view = follow(connect(t, server), app);
    await isFollowing(view);
    await app.publish(1);
    await isCurrent(view, app);
    await server.kill();
    await server.launch();
    await app.publish(2, 3);
    await isCurrent(view, app);
    assert.deepEqual([app.snapshots, view.log], [1, []]);
  });

  it("fetches again after a gap, and goes on from there", async (t) => {
    const server = await Server.start(t, { EMBEDDED_LOG: "" });
    const app = application(server);
    const socket = connect(t, server);
    const view = follow(socket, app);
    await isFollowing(view);
    await app.publish(1);
    await isCurrent(view, app);
    await server.kill();
    app.items.push("published while no server was there");
    app.before = () => app.publish(...numbers(10, 20));
    await server.launch();
    await until("another snapshot", () => app.snapshots === 2);
    await until("the publications", () => app.items.length === 22);
    await app.publish("last");
    await isCurrent(view, app);
    assert.deepEqual([app.snapshots, socket.subscriptions.length], [2, 1]);
  });

  it("fetches behind its subscription where the position is not known", async (t) => {
    const server = await Server.start(t);
    const app = application(server);
    await app.publish(1);
    const snapshot = async () => ({ ...await app.snapshot(), position: null });
    app.before = async () => { if (app.snapshots === 1) await app.publish("between the snapshot and the subscription"); };
    const view = follow(connect(t, server), app, { snapshot });
    await isCurrent(view, app);
    await app.publish(3);
    await isCurrent(view, app);
    assert.equal(app.snapshots, 2);
  });

  it("tells what a server of 3.1 publishes meanwhile after the snapshot", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.stripsSubprotocol = true;
    proxy.streams = "absent";
    const app = application(server);
    const seen = [];
    app.before = async () => {
      if (app.snapshots !== 2) return;
      await app.publish("meanwhile");
      await until("it has come", () => seen.includes("meanwhile"));
    };
    const socket = connect(t, proxy);
    socket.on("message", ({ type, data }) => { if (type === "publish") seen.push(data); });
    const view = follow(socket, app);
    await until("both snapshots", () => app.snapshots === 2);
    await isCurrent(view, app);
    assert.deepEqual([view.items, socket.protocol], [["meanwhile"], "3.1"]);
  });

  it("works by event stream, which is opened once for each snapshot", async (t) => {
    const server = await Server.start(t, { EMBEDDED_LOG: "" });
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = "refuse";
    const app = application(server);
    const socket = connect(t, proxy);
    const view = follow(socket, app);
    await isFollowing(view);
    await app.publish(1);
    await isCurrent(view, app);
    await server.kill();
    app.items.push(2);
    await server.launch();
    await until("another snapshot", () => view.items.length === 2);
    await app.publish(3);
    await isCurrent(view, app);
    assert.deepEqual([socket.transport, app.snapshots], ["sse", 2]);
    assert.ok(socket.told("close").every(({ reason }) => reason !== "no subscriptions"));
  });

  it("tries again at once when the connection is back", async (t) => {
    const server = await Server.start(t);
    const app = application(server);
    const socket = connect(t, server, { reconnectInterval: 20, maxReconnectInterval: 20 });
    await isOpen(socket);
    app.before = async () => { throw new Error("away"); };
    Object.assign(socket, { reconnectInterval: 2 ** 30, maxReconnectInterval: 2 ** 30 });
    const view = follow(socket, app);
    await until("a long wait", () => view.log.length === 1);
    app.before = async () => {};
    socket.close();
    socket.connect();
    await isFollowing(view);
  });

  it("gives up a snapshot that takes too long, and one that is not wanted any more", async (t) => {
    const server = await Server.start(t);
    const signals = [];
    const app = { snapshot: ({ signal }) => { signals.push(signal); return new Promise(() => {}); } };
    const view = follow(connect(t, server), app, { timeout: 20 });
    await until("three attempts", () => signals.length >= 3);
    assert.match(view.log[0][0], /no snapshot within 20 ms/);
    assert.ok(signals[0].aborted);
    const before = signals.length;
    view.feed.close();
    view.feed.refresh();
    await until("the last one is given up", () => signals.every(({ aborted }) => aborted));
    assert.ok(signals.length <= before + 1);
  });

  it("stops where the room is not allowed, and begins again when the application says so", async (t) => {
    const server = await Server.start(t);
    server.backend.clients.set("alice", [room]);
    const app = application(server);
    const view = follow(connect(t, server), app);
    await isFollowing(view);
    await app.publish(1);
    await isCurrent(view, app);
    await server.control({ action: "unsubscribe", user: "alice", room });
    await until("it has stopped", () => view.log.length === 1);
    assert.deepEqual([view.log, view.feed.room], [["by-application"], null]);
    app.items.push(2);
    view.feed.refresh();
    await isFollowing(view);
    await app.publish(3);
    await isCurrent(view, app);
    const other = follow(connect(t, server), app, { room: { target: "secret" } });
    await until("it has stopped", () => other.log.length === 1);
    assert.deepEqual([other.log, other.items], [["room-not-found"], [1, 2, 3]]);
  });

  it("goes over to another room when the snapshot names it", async (t) => {
    const server = await Server.start(t);
    const app = application(server);
    let address = room;
    const socket = connect(t, server);
    const snapshot = async () => ({ ...await app.snapshot(), address });
    const view = follow(socket, app, { snapshot, room: (data) => data.address });
    await isFollowing(view);
    await app.publish(1);
    await isCurrent(view, app);
    address = { target: "other" };
    view.feed.refresh();
    await until("the other room", () => view.feed.room?.target === "other");
    await server.trigger(room, "old");
    await server.trigger(address, "new");
    await until("the publication", () => view.items.includes("new"));
    assert.deepEqual([view.items, socket.subscriptions.length], [[1, "new"], 1]);
  });

  it("closed by its own handler tells nothing more, and leaves no subscription", async (t) => {
    const server = await Server.start(t);
    const app = application(server);
    const socket = connect(t, server);
    const early = follow(socket, app, { onSnapshot: () => early.feed.close() });
    const late = follow(socket, app, { onPublish: () => { late.told += 1; late.feed.close(); } });
    const other = subscribe(socket, { target: "other" });
    await isConfirmed(other);
    await isFollowing(late);
    await app.publish(1, 2, 3);
    await until("it is closed", () => late.told > 0);
    await server.trigger({ target: "other" }, "end");
    await until("the end", () => other.log.includes("end"));
    assert.deepEqual([early.told, late.told, socket.subscriptions], [0, 1, [other]]);
  });

  it("holds a bounded number of publications, and begins anew beyond that", async (t) => {
    const server = await script(t, (connection) => obey(connection, { recovered: false }));
    const socket = connect(t, server);
    let snapshots = 0;
    let release;
    const snapshot = () => {
      snapshots += 1;
      return snapshots === 2 ? new Promise((resolve) => { release = () => resolve({}); }) : {};
    };
    const view = { told: 0 };
    const feed = socket.feed({ snapshot, room, onSnapshot: () => {}, onPublish: () => { view.told += 1; } });
    await until("the second snapshot is asked for", () => release);
    const [first] = socket.subscriptions;
    let seen = 0;
    socket.on("message", ({ type }) => { if (type === "publish") seen += 1; });
    for (let i = 0; i <= 10_000; i += 1) server.connections[0].tell({ type: "publish", requestId: first.requestId, data: i });
    await until("all have come", () => seen === 10_001);
    release();
    await until("another subscription and snapshot", () => snapshots === 3 && socket.subscriptions[0] !== first);
    assert.equal(view.told, 0);
    feed.close();
  });
});

describe("a feed whose waits are known", () => {
  it("tries again with growing waits, until the application says that there is no use", async (t) => {
    const server = await Server.start(t);
    const app = application(server);
    let isOver = false;
    app.before = async () => {
      if (app.snapshots <= 4) throw new Error(`failure ${app.snapshots}`);
      if (isOver) throw new Error("gone");
    };
    const socket = connect(t, server, { reconnectInterval: 16, maxReconnectInterval: 64 });
    await isOpen(socket);
    t.mock.method(Math, "random", () => 0.5);
    const view = follow(socket, app, { shouldRetry: ({ message }) => message !== "gone" });
    await isFollowing(view);
    assert.deepEqual(view.log, [["failure 1", 8], ["failure 2", 16], ["failure 3", 32], ["failure 4", 32]]);
    isOver = true;
    view.feed.refresh();
    await until("the end", () => view.log.at(-1) === "snapshot-failed");
    assert.deepEqual([view.feed.room, socket.subscriptions], [null, []]);
    isOver = false;
    view.feed.refresh();
    await isFollowing(view);
    await app.publish(1);
    await isCurrent(view, app);
  });
});
