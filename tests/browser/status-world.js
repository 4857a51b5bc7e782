// high-templar in front of an API that knows everybody by the token, and clients that can stop reading.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect } from "node:net";
import { freePort, start, stop, until, untilReady } from "./processes.js";

const OPCODE_TEXT = 1, OPCODE_CLOSE = 8;

/** A client of version 4, of the user that its token names. */
export class Client {
  static async connect(port, user, address = "192.0.2.17") {
    const client = new Client();
    client.frames = [];
    client.closed = new Promise((resolve) => { client.wasClosed = resolve; });
    client.socket = connect(port, "127.0.0.1");
    client.socket.on("error", () => {}); // of a server that was killed
    await once(client.socket, "connect");
    client.socket.write([
      `GET /ws/?token=${encodeURIComponent(user)} HTTP/1.1`, `Host: 127.0.0.1:${port}`, "Connection: Upgrade", "Upgrade: websocket",
      "Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
      "Sec-WebSocket-Protocol: high-templar.v4", `X-Real-IP: ${address}`, "", "",
    ].join("\r\n"));
    client.read();
    client.welcome = await client.gets("welcome");
    return client;
  }

  read() {
    let bytes = Buffer.alloc(0), isOpen = false;
    this.socket.on("data", (more) => {
      bytes = Buffer.concat([bytes, more]);
      if (!isOpen) {
        const end = bytes.indexOf("\r\n\r\n");
        if (end < 0) return;
        [isOpen, bytes] = [true, bytes.subarray(end + 4)];
      }
      for (let frame; (frame = takeFrame(bytes)) !== null; bytes = frame.rest) this.take(frame);
    });
  }

  take({ opcode, payload }) {
    if (opcode === OPCODE_TEXT) this.frames.push(JSON.parse(payload));
    if (opcode === OPCODE_CLOSE) this.wasClosed(payload.length >= 2 ? payload.readUInt16BE() : null);
  }

  /** The first frame of this type that there is or will be, or of any that `fits`. */
  gets(type, fits = () => true) {
    return until(`a frame ${type}`, () => this.frames.find((frame) => frame.type === type && fits(frame)));
  }

  says(message) {
    const payload = Buffer.from(JSON.stringify(message)); // of less than 64 KiB; a mask of zeros changes nothing
    const head = payload.length < 126 ? [0x81, 0x80 | payload.length] : [0x81, 0x80 | 126, payload.length >> 8, payload.length & 255];
    this.socket.write(Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), payload]));
  }

  async subscribes(requestId, room) {
    this.says({ type: "subscribe", requestId, room });
    return this.gets("reply", (frame) => frame.requestId === requestId);
  }

  stopsReading() { this.socket.pause(); }
  leaves() { this.socket.destroy(); }
}

// The first frame of `bytes`, which a server has sent, and what follows it; null while it is not all there.
function takeFrame(bytes) {
  if (bytes.length < 2) return null;
  const short = bytes[1] & 127, head = short < 126 ? 2 : short === 126 ? 4 : 10;
  if (bytes.length < head) return null;
  const length = short < 126 ? short : short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
  if (bytes.length < head + length) return null;
  return { opcode: bytes[0] & 15, payload: bytes.subarray(head, head + length), rest: bytes.subarray(head + length) };
}

export class World {
  static async start(binary, settings = {}) {
    const world = new World();
    world.binary = binary;
    world.settings = settings;
    world.rooms = new Map(); // what a user may join, where that is not everything of the default
    world.clients = [];
    [world.port, world.internalPort, world.apiPort] = [await freePort(), await freePort(), await freePort()];
    world.page = `http://127.0.0.1:${world.internalPort}/`;
    await world.startApi();
    await world.startServer();
    return world;
  }

  async startApi() {
    this.api = createServer((request, response) => {
      const user = decodeURIComponent((request.headers.authorization ?? "").replace("Token ", ""));
      const allowed_rooms = this.rooms.get(user) ?? [{ project: "*" }, { project: "*", board: "*" }, { target: "news" }];
      response.setHeader("Content-Type", "application/json").end(JSON.stringify({ allowed_rooms, user: { data: { id: user } } }));
    });
    this.api.listen(this.apiPort, "127.0.0.1");
    await once(this.api, "listening");
  }

  async stopApi() {
    this.api.closeAllConnections();
    this.api.close();
    await once(this.api, "close");
  }

  async startServer() {
    this.server = start(this.binary, [], {
      API_URL: `http://127.0.0.1:${this.apiPort}/api/`,
      LISTEN: `127.0.0.1:${this.port}`,
      INTERNAL_LISTEN: `127.0.0.1:${this.internalPort}`,
      OUTBOX_LIMIT: "16MiB",
      ...this.settings,
    });
    await untilReady(this.server, this.internalPort);
  }

  killServer() { return stop(this.server, "SIGKILL"); }

  async client(user, address) {
    const client = await Client.connect(this.port, user, address);
    this.clients.push(client);
    return client;
  }

  async publishes(room, data) {
    const headers = this.settings.INTERNAL_TOKEN ? { Authorization: `Bearer ${this.settings.INTERNAL_TOKEN}` } : {};
    const body = JSON.stringify({ rooms: [room], data });
    const answer = await fetch(new URL("trigger/", this.page), { method: "POST", headers, body });
    if (!answer.ok) throw new Error(`the trigger was answered ${answer.status}`);
  }

  /** A client in `room` that does not read, and has so many bytes waiting, at least. */
  async slowClient(user, room, bytes, address) {
    const client = await this.client(user, address);
    await client.subscribes("1", room);
    client.stopsReading();
    await until(`${user} is slow`, async () => {
      await this.publishes(room, "x".repeat(400_000));
      const seen = await (await fetch(new URL(`connections?connection=${client.welcome.connection}`, this.page))).json();
      return seen.connections[0].waiting >= bytes;
    });
    return client;
  }

  async stop() {
    this.clients.forEach((client) => client.leaves());
    await stop(this.server);
    if (this.api.listening) await this.stopApi();
  }
}
