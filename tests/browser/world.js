// high-templar and the application of the chat, on ports of their own.

import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { freePort, isRunning, start, stop, until, untilReady } from "./processes.js";

const SERVER = fileURLToPath(new URL("../../examples/chat/server.py", import.meta.url));

export class World {
  static async start(binary) {
    const world = new World();
    world.binary = binary;
    world.secret = randomBytes(16).toString("hex");
    [world.port, world.internalPort] = [await freePort(), await freePort()];
    await world.startServer();
    await world.startApplication(0);
    return world;
  }

  async startApplication(port) {
    const internal = `http://127.0.0.1:${this.internalPort}`, address = `http://127.0.0.1:${this.port}`;
    const args = [SERVER, "--port", port, "--internal", internal, "--public", address];
    this.application = start("python3", args, { CHANNELSTREAM_SECRET: this.secret });
    await until("the chat's server listens", () => isRunning(this.application) && this.application.log.includes("\n"));
    this.page = this.application.log.split("\n")[0];
  }

  async restartApplication() {
    await stop(this.application);
    await this.startApplication(new URL(this.page).port);
  }

  async startServer() {
    this.server = start(this.binary, [], {
      API_URL: "http://127.0.0.1:9/", // nobody connects whom it would have to ask for
      LISTEN: `127.0.0.1:${this.port}`,
      INTERNAL_LISTEN: `127.0.0.1:${this.internalPort}`,
      CHANNELSTREAM_SECRET: this.secret,
    });
    await untilReady(this.server, this.internalPort);
  }

  killServer() { return stop(this.server, "SIGKILL"); }
}
