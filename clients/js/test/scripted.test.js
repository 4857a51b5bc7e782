// Against servers that do what a test says: what the real one does seldom, or never.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { connect, isConfirmed, isOpen, logs, subscribe } from "./support/client.js";
import { until } from "./support/ports.js";
import { obey, script, WELCOME } from "./support/script.js";

const room = { target: "message" };

describe("a close code", { concurrency: true }, () => {
  for (const [code, comesBack] of [
    [1000, true], [1001, true], [1011, true], [1012, true], [1013, true], [3008, true], [3502, true], [3503, true], [4999, true],
    [1008, false], [1009, false], [3500, false], [3501, false],
  ]) {
    it(`of ${code} is ${comesBack ? "followed by a reconnection" : "final"}`, async (t) => {
      const server = await script(t, (connection, number) => {
        obey(connection);
        if (number === 0) connection.close(code, "why");
      });
      const socket = connect(t, server);
      await until("the end", () => socket.told("close").length > 0);
      assert.deepEqual(socket.told("close")[0], { code, reason: "why", willReconnect: comesBack });
      if (comesBack) await until("another connection", () => server.connections.length === 2);
      else assert.deepEqual([socket.state, socket.told("waiting")], ["closed", []]);
    });
  }
});

describe("the wait after it", () => {
  it("is no shorter than the hint says, even when the browser is online again", async (t) => {
    const server = await script(t, (connection) => connection.close(1013, "retry_after=600"));
    const window = new EventTarget();
    for (const name of ["addEventListener", "removeEventListener"]) globalThis[name] = window[name].bind(window);
    t.after(() => { delete globalThis.addEventListener; delete globalThis.removeEventListener; });
    const socket = connect(t, server);
    await until("it waits", () => socket.told("waiting").length > 0);
    assert.ok(socket.told("waiting")[0].delay >= 600_000);
    window.dispatchEvent(new Event("online"));
    assert.equal(socket.state, "waiting");
    socket.close();
    assert.equal(socket.state, "closed");
  });

  it("grows from one to the next, however well the connections began", async (t) => {
    const server = await script(t, (connection, number) => {
      obey(connection);
      if (number < 8) connection.close(1012);
    });
    const socket = connect(t, server, { reconnectInterval: 10, maxReconnectInterval: 30 });
    t.mock.method(Math, "random", () => 0.99);
    await until("it stays", () => server.connections.length === 9 && socket.state === "open");
    assert.deepEqual(socket.told("waiting").map(({ delay }) => delay), [9.9, 19.8, ...Array(6).fill(29.7)]);
  });
});

describe("a frame", { concurrency: true }, () => {
  it("of resync has all subscriptions fetch, and goes on from there", async (t) => {
    const server = await script(t, (connection) => obey(connection));
    const socket = connect(t, server);
    const subscriptions = [subscribe(socket, room), subscribe(socket, room)];
    await isConfirmed(subscriptions[1]);
    server.connections[0].tell({ type: "resync", position: "e:99" });
    for (const subscription of subscriptions) assert.deepEqual(await logs(subscription, "reconnect"), ["reconnect"]);
    server.connections[0].terminate();
    await until("it subscribes again", () => server.said[1]?.length > 0);
    assert.deepEqual(JSON.parse(server.said[1][0]).subscriptions.map(({ since }) => since), ["e:99", "e:99"]);
  });

  it("decides from where on to resume, a reply's position until the first publication", async (t) => {
    const server = await script(t, (connection, number) => obey(connection, { position: `e:${number}`, recovered: number > 0 }));
    const socket = connect(t, server);
    const [quiet, lively] = [subscribe(socket, room), subscribe(socket, room)];
    await isConfirmed(lively);
    server.connections[0].tell({ type: "publish", requestId: lively.requestId, data: 1, position: "e:7" });
    await logs(lively, 1);
    server.connections[0].terminate();
    assert.deepEqual(await logs(quiet, "recovered"), ["recovered"]);
    assert.deepEqual(JSON.parse(server.said[1][0]), { type: "subscribe", subscriptions: [
      { requestId: quiet.requestId, room, since: "e:0" }, { requestId: lively.requestId, room, since: "e:7" },
    ] });
  });

  it("that cannot be read is told, and ends nothing", async (t) => {
    const server = await script(t, (connection) => {
      obey(connection);
      for (const text of ["{", "null", '"x"', "{}", '{"type":"publish","requestId":"of nobody"}', '{"type":"of next year"}']) connection.send(text);
      connection.send(Buffer.from("binary"));
    });
    const socket = connect(t, server);
    await isConfirmed(subscribe(socket, room));
    assert.deepEqual(socket.told("error").map(({ message }) => message), ["a frame is no JSON"]);
    assert.equal(socket.state, "open");
  });

  it("that comes first and is no welcome is a failure", async (t) => {
    const server = await script(t, (connection, number) => {
      if (number === 0) connection.tell({ type: "publish", data: 1 });
      else obey(connection);
    });
    const socket = connect(t, server);
    await isOpen(socket);
    assert.equal(socket.told("close").length, 1);
  });

  it("of a connection that was closed is ignored", async (t) => {
    const server = await script(t, (connection) => obey(connection));
    const socket = connect(t, server);
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    const [{ requestId }, [first]] = [subscription, server.connections];
    socket.close();
    first.tell({ type: "publish", requestId, data: "late", position: "e:2" });
    socket.connect();
    await until("it subscribes again", () => server.said[1]?.length > 0);
    server.connections[1].tell({ type: "publish", requestId, data: "new", position: "e:3" });
    await until("the publication", () => subscription.log.includes("new"));
    assert.ok(!subscription.log.includes("late"));
  });
});

describe("a ticket", () => {
  it("is the newest one, counts once, and comes before all else", async (t) => {
    const server = await script(t, (connection, number) => {
      if (number === 0) {
        connection.tell({ ...WELCOME, ticket: "old" });
        connection.tell({ type: "ticket", ticket: "new" });
      } else if (number === 1) {
        connection.once("message", () => connection.terminate()); // has taken it, and is gone
      } else {
        obey(connection);
      }
    });
    const socket = connect(t, server);
    const ticket = new Promise((resolve) => { socket.on("message", ({ type }) => { if (type === "ticket") resolve(); }); });
    await ticket;
    server.connections[0].terminate();
    subscribe(socket, room);
    await until("the third connection", () => server.said[2]?.length > 0);
    assert.deepEqual(server.connections.map(({ path }) => path), ["/ws/?token=alice", "/ws/?token=alice&resume", "/ws/?token=alice"]);
    assert.deepEqual(server.said[1], ['{"type":"resume","ticket":"new"}']);
    assert.equal(JSON.parse(server.said[2][0]).type, "subscribe");
  });
});
