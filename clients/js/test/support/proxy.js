// What stands between a client and its server, with faults as a test wants them.

import { connect, createServer } from "node:net";
import { Transform } from "node:stream";
import { listen } from "./ports.js";

export class Proxy {
  /** What becomes of handshakes, and of requests for event streams: "pass", "refuse" (with 502), "absent" (404) or "hang". */
  sockets = "pass";
  streams = "pass";
  /** Whether the next connection is one to a server of 3.1: knows no subprotocol, no event streams, and counts no messages. */
  isOld = () => false;
  /** Of every request, in order: "v4", "plain" or "sse". */
  asked = [];
  /** The targets of those requests. */
  targets = [];
  /** Is told what each request is, before anything becomes of it. */
  onAsked = () => {};
  #pairs = new Set();

  /** In front of `port`, until the end of test `t`. */
  static async start(t, port) {
    const proxy = new Proxy();
    proxy.upstream = port;
    proxy.server = createServer((client) => proxy.#accept(client));
    proxy.port = await listen(proxy.server);
    t.after(() => {
      proxy.server.close();
      proxy.cut();
    });
    return proxy;
  }

  get url() { return `ws://127.0.0.1:${this.port}/ws/`; }

  /** Breaks every connection. */
  cut() {
    for (const pair of this.#pairs) for (const end of pair) end.destroy();
  }

  /** Lets nothing through any more on the connections that there are, and does not end them. */
  freeze() {
    for (const [client, server] of this.#pairs) {
      client.unpipe();
      server?.unpipe();
    }
  }

  #accept(client) {
    const pair = [client];
    this.#pairs.add(pair);
    client.on("error", () => {});
    client.on("close", () => {
      this.#pairs.delete(pair);
      pair[1]?.destroy();
    });
    let head = Buffer.alloc(0);
    const read = (bytes) => {
      head = Buffer.concat([head, bytes]);
      if (head.indexOf("\r\n\r\n") < 0) return;
      client.off("data", read);
      client.pause();
      this.#request(pair, head.toString("latin1"));
    };
    client.on("data", read);
  }

  #request(pair, head) {
    const [client] = pair;
    const isStream = /^GET \/sse/.test(head);
    const what = isStream ? "sse" : /^sec-websocket-protocol:/im.test(head) ? "v4" : "plain";
    this.asked.push(what);
    this.onAsked(what);
    this.targets.push(head.split(" ")[1]);
    const isOld = this.isOld();
    const fate = !isStream ? this.sockets : isOld ? "absent" : this.streams;
    if (fate === "hang") return;
    if (fate !== "pass") {
      const status = fate === "absent" ? "404 Not Found" : "502 Bad Gateway";
      client.end(`HTTP/1.1 ${status}\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno`);
      return;
    }
    // One request a connection, so that each comes by here.
    let passed = isStream ? head.replace(/^connection:.*\r\n/im, "").replace("\r\n", "\r\nConnection: close\r\n") : head;
    if (isOld) passed = passed.replace(/^sec-websocket-protocol:.*\r\n/im, "");
    const server = connect(this.upstream, "127.0.0.1");
    pair[1] = server;
    server.on("error", () => client.destroy());
    server.on("close", () => client.destroy());
    server.write(passed, "latin1");
    client.pipe(server);
    if (isOld) server.pipe(withoutCounts()).pipe(client);
    else server.pipe(client);
  }
}

/** Frames as a server of 3.1 sends them, whose status has no count of messages. */
function withoutCounts() {
  return new Transform({
    transform(bytes, _, done) {
      const text = bytes.toString("latin1");
      done(null, Buffer.from(text.replace(/("ws_messages_received": ?)(\d+)/, (_, name, count) => name + "0".padStart(count.length)), "latin1"));
    },
  });
}
