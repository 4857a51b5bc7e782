// Programs that tests start and stop, and waiting for conditions.

import { spawn } from "node:child_process";

export { freePort } from "../../clients/js/test/support/ports.js";

const running = new Set();

// However we end, nothing that we started stays.
process.on("exit", () => { for (const child of running) child.kill("SIGKILL"); });
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(130));

export function start(command, args, environment) {
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

export async function stop(child, signal = "SIGTERM") {
  child.kill(signal);
  await child.ended;
}

/** Also what a world that did not come about has left. */
export async function stopAll() {
  await Promise.all([...running].map((child) => stop(child)));
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

/** Throws when it has ended, with what it said. */
export function isRunning(child) {
  if (!running.has(child)) throw new Error(`${child.spawnfile} has ended:\n${child.log}`);
  return true;
}

/** Waits for a high-templar. */
export function untilReady(child, internalPort) {
  return until("high-templar is ready", async () => {
    const answer = await fetch(`http://127.0.0.1:${internalPort}/readyz`).catch(() => null);
    return isRunning(child) && answer?.status === 200;
  });
}
