import { createServer } from "node:net";

/** Has `server` listen on a free port. */
export function listen(server, port = 0) {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server.address().port));
  });
}

/**
 * The first of so many free ports in a row, below those that the kernel gives to outgoing connections, so that a server can be
 * started on them again.
 */
export async function freePort(count = 1) {
  for (;;) {
    const first = 12_000 + Math.floor(Math.random() * 20_000);
    const ports = Array.from({ length: count }, (_, i) => first + i);
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return first;
  }
}

async function isFree(port) {
  const probe = createServer();
  const couldListen = await listen(probe, port).then(() => true, () => false);
  if (couldListen) await new Promise((resolve) => { probe.close(resolve); });
  return couldListen;
}

/** Waits for `condition` to give something. */
export async function until(what, condition, seconds = 15) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`after ${seconds} s still not: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 10); });
  }
}
