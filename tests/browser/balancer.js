// What stands in front of high-templar: a balancer that goes to the next instance when one is away, as nginx does, and
// through which no sockets come for whoever shows the cookie `blocked`. The cookie `prefers` names the instance to try first.

import { createServer, request } from "node:http";

export class Balancer {
  /** In front of instances on these ports of this machine. */
  static async start(ports) {
    const balancer = new Balancer();
    balancer.ports = ports;
    balancer.sockets = new Set();
    balancer.server = createServer((incoming, response) => balancer.pass(incoming, response));
    balancer.server.on("connection", (socket) => {
      balancer.sockets.add(socket);
      socket.on("close", () => balancer.sockets.delete(socket));
    });
    balancer.server.on("upgrade", (incoming, socket, head) => balancer.upgrade(incoming, socket, head));
    await new Promise((resolve) => balancer.server.listen(0, "127.0.0.1", resolve));
    balancer.port = balancer.server.address().port;
    return balancer;
  }

  stop() {
    this.cut();
    this.server.close();
  }

  /** Ends all connections, and finds no instance, until `mend`. */
  cut() {
    this.isCut = true;
    this.sockets.forEach((socket) => socket.destroy());
  }
  mend() { this.isCut = false; }

  // Calls `onRequest` with a request to the first instance that is there, or `onNobody`.
  reach(incoming, onRequest, onNobody) {
    const preferred = Number(/\bprefers=(\d+)/.exec(incoming.headers.cookie)?.[1] ?? 0);
    const ports = [...this.ports.slice(preferred), ...this.ports.slice(0, preferred)];
    const next = () => {
      if (this.isCut || !ports.length) return onNobody();
      const { method, url, headers } = incoming;
      const outgoing = request({ port: ports.shift(), host: "127.0.0.1", method, path: url, headers, agent: false });
      outgoing.once("error", next);
      outgoing.once("socket", (socket) => socket.once("connect", () => {
        outgoing.off("error", next);
        onRequest(outgoing);
      }));
      outgoing.flushHeaders();
    };
    next();
  }

  pass(incoming, response) {
    this.reach(incoming, (outgoing) => {
      outgoing.on("error", () => response.destroy());
      response.on("close", () => outgoing.destroy());
      outgoing.on("response", (answer) => {
        answer.on("error", () => response.destroy());
        response.writeHead(answer.statusCode, answer.headers);
        response.flushHeaders();
        answer.pipe(response);
      });
      incoming.pipe(outgoing);
    }, () => response.writeHead(502, { "Content-Type": "text/html" }).end("<html><h1>502 Bad Gateway</h1></html>"));
  }

  upgrade(incoming, socket, head) {
    socket.on("error", () => socket.destroy());
    const refuse = (status) => socket.end(`HTTP/1.1 ${status}\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
    if (/\bblocked=/.test(incoming.headers.cookie)) return refuse("403 Forbidden");
    this.reach(incoming, (outgoing) => {
      outgoing.on("error", () => socket.destroy());
      outgoing.on("response", (answer) => refuse(`${answer.statusCode} ${answer.statusMessage}`));
      outgoing.on("upgrade", (answer, other, otherHead) => {
        const headers = answer.rawHeaders.map((text, index) => (index % 2 ? `${text}\r\n` : `${text}: `)).join("");
        socket.write(`HTTP/1.1 101 Switching Protocols\r\n${headers}\r\n`);
        socket.write(otherHead);
        other.write(head);
        socket.pipe(other).pipe(socket);
        for (const [end, peer] of [[socket, other], [other, socket]]) end.on("close", () => peer.destroy()).on("error", () => {});
      });
      outgoing.end();
    }, () => refuse("502 Bad Gateway"));
  }
}
