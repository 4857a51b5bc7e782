// ./run as a newcomer uses it: does what it prints lead where it says?

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { Person } from "./multichat-world.js";
import { freePort, isRunning, start, stop, stopAll, until } from "./processes.js";

const RUN = fileURLToPath(new URL("../../run", import.meta.url));
const AMQP = process.env.TEST_AMQP_URL;
const LOBBY = { name: "Lobby", slug: "lobby" };
let browser;

before(async () => { browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" }); });
after(async () => {
  await browser?.close();
  await stopAll();
});

/** `./run` with these arguments, until the end of the test `t`. */
async function runs(t, args, environment = {}) {
  const scratch = mkdtempSync(join(tmpdir(), "run."));
  const first = await freePort(5);
  const ports = [first, first + 2, first + 4]; // a second instance has those behind the first one's
  const child = start("bash", [RUN, ...args], {
    HIGH_TEMPLAR: resolve(process.argv[2]),
    DATA: scratch,
    VENV: process.env.VENV ?? "",
    LISTEN: `127.0.0.1:${ports[0]}`,
    INTERNAL_LISTEN: `127.0.0.1:${ports[1]}`,
    CHAT_PORT: String(ports[2]),
    RESTART_SECONDS: "1",
    ...environment,
  });
  t.after(async () => {
    await stop(child);
    rmSync(scratch, { recursive: true, force: true });
  });
  await until("it says where to look", () => isRunning(child) && child.log.includes("Ctrl-C stops"), 120);
  return { child, ports };
}

/** Somebody who logs in at `page` as it is printed. */
async function logsIn(t, page, name) {
  const person = await Person.enters(t, browser, { page }, { name });
  await person.page.getByLabel("Username").fill(name);
  await person.page.getByLabel("Password").fill(name);
  await person.page.keyboard.press("Enter");
  await person.isConnected();
  await person.joins(LOBBY);
  return person;
}

/** Both people of the demo, at the addresses that are printed. */
function both(t, log) {
  const [bobs, alices] = log.match(/http:\S+:\d+\/(?= +(log in|and,))/g);
  return Promise.all([logsIn(t, bobs, "bob"), logsIn(t, alices, "alice")]);
}

async function endsOf(child, ports) {
  child.kill("SIGINT");
  await child.ended;
  assert.equal(child.exitCode, 0, child.log);
  for (const port of ports) await assert.rejects(fetch(`http://127.0.0.1:${port}/`), `somebody still listens at ${port}`);
}

describe("./run", { concurrency: 2 }, () => {
  it("starts the chat, where two accounts talk through a kill, and ends all of it", async (t) => {
    const { child, ports } = await runs(t, []);
    const [bob, alice] = await both(t, child.log);
    await bob.says(LOBBY, "hello");
    await alice.sees(LOBBY, "hello");

    const [kill] = child.log.match(/kill -KILL .*/);
    execFileSync("bash", ["-c", kill]);
    await alice.isReconnecting();
    await alice.page.getByLabel("Message to Lobby", { exact: true }).fill("while it is away");
    await alice.page.keyboard.press("Enter");
    for (const person of [alice, bob]) {
      await person.isConnected();
      await person.sees(LOBBY, "while it is away");
      assert.deepEqual(await person.seen(LOBBY), ["hello", "while it is away"]);
    }

    const [, trigger, url] = child.log.match(/curl .*-d '(.*)' \\\s+(\S+)/);
    assert.equal((await fetch(url, { method: "POST", body: trigger })).status, 200);
    await bob.seesNotice(LOBBY, "The terminal has joined.");
    await endsOf(child, ports);
  });

  it("starts two instances on RabbitMQ", { skip: AMQP ? false : "TEST_AMQP_URL is not set" }, async (t) => {
    const { child, ports } = await runs(t, ["--rabbitmq"], { AMQP_URL: AMQP, AMQP_EXCHANGE: `run-${randomBytes(8).toString("hex")}` });
    const internals = [ports[1], ports[1] + 1].map((port) => `http://127.0.0.1:${port}`);
    for (const internal of internals) assert.equal((await (await fetch(`${internal}/status`)).json()).broker.kind, "rabbitmq");
    const [bob, alice] = await both(t, child.log);
    await alice.says(LOBBY, "hello");
    await bob.sees(LOBBY, "hello");
    await endsOf(child, ports);
  });

  it("says what to do where a port is taken", async () => {
    const port = await freePort();
    const holder = start("python3", ["-m", "http.server", "--bind", "127.0.0.1", String(port)], {});
    await until("somebody listens", () => fetch(`http://127.0.0.1:${port}/`).catch(() => null));
    const child = start("bash", [RUN], { HIGH_TEMPLAR: resolve(process.argv[2]), CHAT_PORT: String(port) });
    await child.ended;
    await stop(holder);
    assert.equal(child.exitCode, 1);
    assert.match(child.log, new RegExp(`ports that are taken: .*${port}`));
  });
});
