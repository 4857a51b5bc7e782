// high-templar and the application of the chat, on ports of their own.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

const SERVER = fileURLToPath(new URL("../../examples/chat/server.py", import.meta.url));
const running = new Set();

// However we end, nothing that we started stays.
process.on("exit", () => { for (const child of running) child.kill("SIGKILL"); });
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(130));

function start(command, args, environment) {
  const child = spawn(command, args, { env: { PATH: process.env.PATH, ...environment }, stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  child.log = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => { child.log += text; });
  child.ended = new Promise((resolve) => {
    child.on("error", (error) => { child.log += error.message; });
    child.on("close", () => { running.delete(child); resolve(); });
  });
  return child;
}

async function stop(child, signal = "SIGTERM") {
  child.kill(signal);
  await child.ended;
}

/** Also what a world that did not come about has left. */
export async function stopAll() {
  await Promise.all([...running].map((child) => stop(child)));
}

// The kernel does not give it out again soon.
function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

/** Waits for `condition` to give something. */
export async function until(what, condition, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`after ${seconds} s still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

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
    await until("the chat's server listens", () => {
      if (!running.has(this.application)) throw new Error(`the chat's server has ended:\n${this.application.log}`);
      return this.application.log.includes("\n");
    });
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
    await until("high-templar is ready", async () => {
      if (!running.has(this.server)) throw new Error(`high-templar has ended:\n${this.server.log}`);
      const answer = await fetch(`http://127.0.0.1:${this.internalPort}/readyz`).catch(() => null);
      return answer?.status === 200;
    });
  }

  killServer() { return stop(this.server, "SIGKILL"); }
}
