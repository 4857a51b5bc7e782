// A user's API: tells whom it lets in, by token, and where to.

import { createServer } from "node:http";
import { listen } from "./ports.js";

export class Backend {
  /** By token: the rooms, a status instead, or what to do with the response. */
  clients = new Map();
  /** By token: whose it is, where that is not the user of the same name. */
  users = new Map();
  /** The tokens that were asked for. */
  asked = [];
  /** Milliseconds before each answer. */
  delay = 0;

  static async start() {
    const backend = new Backend();
    backend.server = createServer((request, response) => setTimeout(() => backend.#answer(request, response), backend.delay));
    backend.port = await listen(backend.server);
    return backend;
  }

  get url() { return `http://127.0.0.1:${this.port}/api/`; }

  #answer(request, response) {
    const token = request.headers.authorization?.replace("Token ", "") ?? "";
    this.asked.push(token);
    const answer = this.clients.get(token) ?? [{ target: "*" }];
    if (typeof answer === "number") {
      response.writeHead(answer).end();
      return;
    }
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ allowed_rooms: answer, user: { data: { id: this.users.get(token) ?? (token || "nobody") } } }));
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}
