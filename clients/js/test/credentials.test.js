// Credentials that change while a page is open.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { connect, isConfirmed, isOpen, logs, subscribe } from "./support/client.js";
import { until } from "./support/ports.js";
import { Proxy } from "./support/proxy.js";
import { obey, script, WELCOME } from "./support/script.js";
import { Server } from "./support/server.js";

const room = { target: "message" };

/** A server that answers requests to authenticate with `reply`. */
function keeper(t, reply, serve = (connection) => obey(connection)) {
  return script(t, (connection, number) => {
    connection.shown = [];
    connection.on("message", (text) => {
      if (!String(text).startsWith("{")) return;
      const { type, requestId, params } = JSON.parse(text);
      if (type !== "authenticate") return;
      connection.shown.push(params);
      connection.tell({ type: "reply", requestId, ...reply });
    });
    serve(connection, number);
  });
}

const SUCCESS = { code: "success" };
const UNKNOWN = { code: "error", message: "message-type-not-allowed" };
const paths = ({ connections }) => connections.map(({ path }) => path);

describe("parameters", { concurrency: true }, () => {
  it("of a function are evaluated before every attempt", async (t) => {
    const server = await script(t, (connection) => obey(connection));
    let calls = 0;
    const params = async () => ({ token: `t${calls += 1}`, tenant: 7, flag: false, none: null });
    const socket = connect(t, server, { token: undefined, params });
    await isOpen(socket);
    server.connections[0].terminate();
    await until("another connection", () => server.connections.length === 2);
    await isOpen(socket);
    assert.deepEqual(paths(server), ["/ws/?token=t1&tenant=7&flag=false", "/ws/?token=t2&tenant=7&flag=false"]);
  });

  it("stand beside the token", async (t) => {
    const server = await script(t, (connection) => obey(connection));
    await isOpen(connect(t, server, { params: { session_token: "s&" } }));
    assert.deepEqual(paths(server), ["/ws/?token=alice&session_token=s%26"]);
  });

  it("that cannot be evaluated are an attempt that has failed", async (t) => {
    const server = await script(t, (connection) => obey(connection));
    const answers = [() => { throw new Error("no token"); }, () => Promise.reject(new Error("no answer")), () => new Promise(() => {}), () => ({})];
    const socket = connect(t, server, { token: null, params: () => answers.shift()(), connectTimeout: 50 });
    await isOpen(socket);
    assert.deepEqual(socket.told("close").map(({ code, willReconnect }) => [code, willReconnect]), Array(3).fill([1006, true]));
    assert.deepEqual(socket.told("error").map(({ message }) => message.replace(/.*: /, "")), ["no token", "no answer", "no answer in time"]);
    assert.deepEqual(paths(server), ["/ws/"]);
  });

  it("that come after close() connect nothing", async (t) => {
    const server = await script(t, (connection) => obey(connection));
    let answer;
    const socket = connect(t, server, { params: () => new Promise((resolve) => { answer = resolve; }) });
    await until("they are asked for", () => answer);
    socket.close();
    answer({ token: "late" });
    socket.connect();
    answer({ token: "new" });
    await isOpen(socket);
    assert.deepEqual(paths(server), ["/ws/?token=new"]);
  });
});

describe("newer credentials", { concurrency: true }, () => {
  it("are shown on the connection, and by the next one", async (t) => {
    const server = await keeper(t, SUCCESS);
    const socket = connect(t, server);
    await isOpen(socket);
    await socket.authenticate({ token: "new" });
    socket.token = "newest";
    await socket.authenticate({ session: 1 });
    socket.token = undefined;
    await socket.authenticate({ session: null });
    socket.token = "newest";
    await socket.authenticate({ session: 1 });
    assert.deepEqual(server.connections[0].shown, [
      { token: "new" }, { token: "newest", session: "1" }, { token: "", session: "" }, { token: "newest", session: "1" },
    ]);
    server.connections[0].terminate();
    await until("another connection", () => server.connections.length === 2);
    assert.deepEqual(paths(server), ["/ws/?token=alice", "/ws/?token=newest&session=1"]);
    assert.deepEqual(server.connections[1].shown, []);
  });

  it("come from the function", async (t) => {
    const server = await keeper(t, SUCCESS);
    let token = "first";
    const socket = connect(t, server, { token: null, params: async () => ({ token }) });
    await isOpen(socket);
    token = "second";
    await socket.authenticate();
    assert.deepEqual(server.connections[0].shown, [{ token: "second" }]);
  });

  it("that came while the connection was being made are shown right after", async (t) => {
    const server = await keeper(t, SUCCESS, (connection) => {
      connection.start = () => obey(connection);
    });
    const socket = connect(t, server);
    await until("the handshake", () => server.connections.length === 1);
    await socket.authenticate({ token: "new" });
    server.connections[0].start();
    await until("they are shown", () => server.connections[0].shown.length === 1);
    assert.deepEqual(server.connections[0].shown, [{ token: "new" }]);
  });

  it("that the server cannot read are an error", async (t) => {
    const server = await keeper(t, { code: "error", message: "malformed-params", detail: "too many" });
    const socket = connect(t, server);
    await isOpen(socket);
    await assert.rejects(socket.authenticate({ token: "new" }), /too many/);
    assert.equal(socket.state, "open");
  });

  it("that a server does not know how to take do not end the connection, and bring it back once", async (t) => {
    const server = await keeper(t, UNKNOWN);
    const socket = connect(t, server);
    await isOpen(socket);
    await socket.authenticate({ token: "new" });
    assert.deepEqual([socket.state, server.connections.length], ["open", 1]);
    server.connections[0].close(3500, "not-authorized");
    await until("it is back", () => server.connections.length === 2);
    await isOpen(socket);
    server.connections[1].close(3500, "not-authorized");
    await until("the end", () => socket.state === "closed");
    assert.deepEqual(paths(server), ["/ws/?token=alice", "/ws/?token=new"]);
    assert.deepEqual(socket.told("close").map(({ willReconnect }) => willReconnect), [true, false]);
  });

  it("are not waited for when the connection ends first", async (t) => {
    const server = await script(t, (connection, number) => {
      obey(connection);
      connection.on("message", (text) => { if (number === 0 && /authenticate/.test(text)) connection.terminate(); });
    });
    const socket = connect(t, server);
    await isOpen(socket);
    await socket.authenticate({ token: "new" });
    await until("it is back", () => server.connections.length === 2);
    assert.equal(paths(server)[1], "/ws/?token=new");
  });
});

describe("a check that fails", { concurrency: true }, () => {
  it("brings the page back with what it holds then, without its ticket; a refusal is final", async (t) => {
    const server = await script(t, (connection, number) => {
      if (number === 0) {
        connection.tell({ ...WELCOME, ticket: "ticket" });
        connection.close(3502, "not-authorized");
      } else {
        connection.tell({ type: "welcome", is_authorized: false, message: "not-authorized" });
        connection.close(3500, "not-authorized");
      }
    });
    let token = "old";
    const socket = connect(t, server, { token: null, params: () => ({ token }) });
    socket.on("open", () => { token = "new"; });
    await until("the end", () => socket.state === "closed");
    assert.deepEqual(paths(server), ["/ws/?token=old", "/ws/?token=new"]);
    assert.deepEqual(socket.told("close").map(({ code, willReconnect }) => [code, willReconnect]), [[3502, true], [3500, false]]);
  });
});

describe("the server", () => {
  it("checks the page by what it has shown last", async (t) => {
    const server = await Server.start(t);
    const socket = connect(t, server);
    const replies = [];
    socket.on("message", (frame) => { if (/^authenticate/.test(frame.requestId)) replies.push(frame.code); });
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    await socket.authenticate({ token: "new" });
    server.backend.clients.set("alice", 403);
    server.backend.users.set("new", "alice");
    await server.control({ action: "reauthorize", user: "alice" });
    await until("it is checked", () => server.backend.asked.includes("new"));
    await isOpen(socket);
    await server.trigger(room, 1);
    await until("the publication", () => subscription.log.at(-1) === 1);
    assert.deepEqual(replies, ["success"]);
    assert.equal(socket.told("close").length, 0);
  });
});

describe("by event stream", () => {
  it("the next request shows newer credentials", async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server.port);
    proxy.sockets = "refuse";
    const socket = connect(t, proxy);
    const subscription = subscribe(socket, room);
    await isConfirmed(subscription);
    await socket.authenticate({ token: "bob" });
    assert.deepEqual(server.backend.asked, ["alice"]);
    proxy.cut();
    await server.trigger(room, 1);
    assert.deepEqual(await logs(subscription, "recovered", 1), ["recovered", 1]);
    assert.equal(server.backend.asked.at(-1), "bob");
  });
});
