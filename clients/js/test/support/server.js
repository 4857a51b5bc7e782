// high-templar itself, on ports of its own.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Backend } from "./backend.js";
import { freePort, until } from "./ports.js";

const TARGET = process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL("../../../../target", import.meta.url));
const BINARY = process.env.HIGH_TEMPLAR ?? join(TARGET, "debug/high-templar");
const running = new Set();

// However we end, nothing that we started stays.
process.on("exit", () => { for (const child of running) child.kill("SIGKILL"); });
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(130));

export class Server {
  /** Until the end of test `t`; `settings` are environment variables. */
  static async start(t, settings = {}) {
    const server = new Server();
    server.scratch = mkdtempSync(join(tmpdir(), "high-templar-client-"));
    server.backend = await Backend.start();
    [server.port, server.internalPort] = [await freePort(), await freePort()];
    server.settings = {
      API_URL: server.backend.url,
      LISTEN: `127.0.0.1:${server.port}`,
      INTERNAL_LISTEN: `127.0.0.1:${server.internalPort}`,
      EMBEDDED_LOG: join(server.scratch, "log"),
      LOG: "warn",
      ...settings,
    };
    t.after(async () => {
      await server.kill();
      server.backend.stop();
      rmSync(server.scratch, { recursive: true, force: true });
    });
    await server.launch();
    return server;
  }

  get url() { return `ws://127.0.0.1:${this.port}/ws/`; }
  get isRunning() { return running.has(this.child); }

  async launch() {
    const child = spawn(BINARY, [], { env: { PATH: process.env.PATH, ...this.settings }, stdio: ["ignore", "pipe", "pipe"] });
    this.child = child;
    running.add(child);
    let log = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => { log += text; });
    child.ended = new Promise((resolve) => {
      child.on("error", (error) => { log += error.message; running.delete(child); resolve(); });
      child.on("close", () => { running.delete(child); resolve(); });
    });
    await until("high-templar is ready", async () => {
      if (!this.isRunning) throw new Error(`high-templar has ended:\n${log}`);
      return (await this.#call("readyz").catch(() => null))?.status === 200;
    });
  }

  kill() { return this.#end("SIGKILL"); }
  stop() { return this.#end("SIGTERM"); }

  async #end(signal) {
    this.child.kill(signal);
    await this.child.ended;
  }

  #call(path, body) {
    return fetch(`http://127.0.0.1:${this.internalPort}/${path}`, body && { method: "POST", body: JSON.stringify(body) });
  }

  async #post(path, body) {
    const response = await this.#call(path, body);
    if (response.status !== 200) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  }

  trigger(room, data) { return this.#post("trigger/", { rooms: [room], data }); }
  control(message) { return this.#post("control/", message); }

  async position() { return (await (await this.#call("position")).json()).position; }
  async connections() { return (await (await this.#call("connections")).json()).count; }
  async rooms() { return (await (await this.#call("rooms")).json()).count; }
}
