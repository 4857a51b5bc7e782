// A server that does what a test says: what the real one does seldom, or never.

import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { listen } from "./ports.js";

export const WELCOME = { type: "welcome", is_authorized: true, allowed_rooms: [], connection: "c", position: "e:1", ping_interval: 25 };
/** A server that has `serve` do with each connection, numbered from 0, what a test wants; there are no event streams. */
export async function script(t, serve) {
  const web = createServer((_, response) => { response.writeHead(502).end(); });
  const sockets = new WebSocketServer({ server: web, handleProtocols: () => "high-templar.v4" });
  const server = { connections: [], said: [] };
  sockets.on("connection", (connection, { url }) => {
    const number = server.connections.push(connection) - 1;
    const said = [];
    server.said.push(said);
    connection.path = url;
    connection.tell = (frame) => connection.send(JSON.stringify(frame));
    connection.on("message", (text) => said.push(String(text)));
    serve(connection, number);
  });
  server.url = `ws://127.0.0.1:${await listen(web)}/ws/`;
  t.after(() => {
    for (const connection of sockets.clients) connection.terminate();
    web.closeAllConnections();
    web.close();
  });
  return server;
}

/** Welcomes, and confirms whatever is asked for, as if at `position`. */
export function obey(connection, { position = "e:1", recovered } = {}) {
  connection.tell(WELCOME);
  connection.on("message", (text) => {
    const { type, subscriptions } = JSON.parse(text);
    if (type !== "subscribe") return;
    for (const { requestId } of subscriptions) connection.tell({ type: "reply", requestId, code: "success", position, recovered });
  });
}
