// The chat of examples/multichat while what it runs on is killed and started again.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";
import { Person, World } from "./multichat-world.js";
import { stopAll, until } from "./processes.js";

const SSE = { cookies: { blocked: "1" }, by: "Connected (server-sent events)" };
const amqp = process.env.TEST_AMQP_URL;
const noBroker = amqp ? false : "TEST_AMQP_URL does not name a RabbitMQ";

let browser;

before(async () => { browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" }); });
after(async () => {
  await browser?.close();
  await stopAll();
});

/** Writes one message after the other until told to stop. */
class Writer {
  constructor(person, room) {
    this.said = [];
    this.ended = this.#write(person, room);
  }

  async #write(person, room) {
    while (!this.isStopped) {
      const text = `${person.name} says ${this.said.length}`;
      await person.says(room, text);
      this.said.push(text);
    }
  }

  stop() {
    this.isStopped = true;
    return this.ended;
  }

  hasSaid(more) {
    const goal = this.said.length + more;
    return Promise.race([until(`${more} more messages`, () => this.said.length >= goal), this.ended]);
  }
}

/**
 * People in pairs, each pair in a room of its own, write to each other while `outage` takes place, after which everybody has all:
 * once, in order, on the same page, and without having fetched anything again.
 */
async function writeThrough(world, pairs, outage) {
  const everybody = pairs.flatMap(({ people, room }) => people.map((person) => ({ person, room })));
  const snapshots = [];
  for (const { person } of everybody) {
    await person.page.evaluate(() => { window.isTheSame = true; });
    person.page.on("request", (request) => {
      if (request.method() === "GET" && /\/api\/rooms\//.test(request.url())) snapshots.push(request.url());
    });
  }
  const writers = everybody.map(({ person, room }) => new Writer(person, room));
  const all = (more) => Promise.all(writers.map((writer) => writer.hasSaid(more)));
  await all(2);
  await outage(all);
  await all(2);
  await Promise.all(writers.map((writer) => writer.stop()));

  for (const { people, room } of pairs) {
    const said = writers.filter((_, number) => everybody[number].room === room).map((writer) => writer.said);
    for (const person of people) {
      await until(`${person.name} sees all`, async () => (await person.seen(room)).length >= said.flat().length);
      const seen = await person.seen(room);
      assert.equal(seen.length, said.flat().length);
      for (const texts of said) assert.deepEqual(seen.filter((text) => texts.includes(text)), texts);
      assert.deepEqual(seen, await people[0].seen(room));
      assert.ok(await person.page.evaluate(() => window.isTheSame));
      assert.equal(await person.panel(room).getByText("has left.").count(), 0);
      assert.deepEqual(person.problems, []);
    }
  }
  assert.deepEqual(snapshots, []);
}

async function pair(t, world, options = [{}, {}]) {
  const room = world.rooms.pop();
  const users = [world.staff.pop(), world.others.pop()];
  const people = await Promise.all(users.map((user, number) => Person.enters(t, browser, world, user, [room], options[number])));
  return { people, room };
}

describe("one instance", () => {
  let world;
  before(async () => { world = await World.start(process.argv[2]); });
  after(() => world?.end());

  it("is killed and started again, and every message is on both sides once, by sockets and by server-sent events", async (t) => {
    const pairs = [await pair(t, world), await pair(t, world, [SSE, SSE])];
    await writeThrough(world, pairs, async (all) => {
      await world.killServer();
      await Promise.all(pairs.flatMap(({ people }) => people.map((person) => person.isReconnecting())));
      await all(2);
      await world.startServer();
      await Promise.all(pairs.flatMap(({ people }, number) => people.map((person) => person.isConnected(number ? SSE.by : "Connected"))));
    });
  });

  it("gets what was written while it was away, though the application was restarted as well", async (t) => {
    const { people: [ann, bob], room } = await pair(t, world);
    await world.killServer();
    await ann.says(room, "is anybody there?");
    await ann.message(room, "is anybody there?").getByRole("button", { name: /^Edit/ }).click();
    const editor = ann.page.getByLabel("Edit the message");
    await editor.fill("is anybody here?");
    await world.killApplication();
    await world.startApplication();
    await world.startServer();
    await bob.sees(room, "is anybody there?");
    assert.deepEqual(await bob.seen(room), ["is anybody there?"]);
    await bob.says(room, "now there is");
    // Ann has got her own message again by now, and bob's behind it; what she was typing stands.
    await ann.sees(room, "now there is");
    await editor.press("Enter");
    await bob.sees(room, "is anybody here?");
    for (const person of [ann, bob]) assert.deepEqual(await person.seen(room), ["is anybody here?", "now there is"]);
  });

  it("loses its log, and pages fetch again what they have missed", async (t) => {
    const { people, room } = await pair(t, world, [{}, SSE]), [ann, bob] = people;
    await ann.says(room, "one");
    await ann.says(room, "two");
    await bob.sees(room, "two");
    world.balancer.cut();
    await Promise.all(people.map((person) => person.isReconnecting()));
    await ann.says(room, "three");
    await ann.message(room, "one").getByRole("button", { name: /^Delete/ }).click();
    await ann.seesNoLonger(room, "one");
    await until("all is published", () => world.hasPublished());
    await world.killServer();
    world.loseLog();
    await world.startServer();
    assert.deepEqual(await bob.seen(room), ["one", "two"]);
    world.balancer.mend();
    await bob.sees(room, "three");
    for (const person of people) assert.deepEqual(await person.seen(room), ["two", "three"]);
    await bob.says(room, "four");
    await ann.sees(room, "four");
  });

  it("keeps the connections while the application is away, and the page keeps the text", async (t) => {
    const { people: [ann, bob], room } = await pair(t, world);
    await world.killApplication();
    const input = ann.page.getByLabel(`Message to ${room.name}`);
    await input.fill("do not lose me");
    await input.press("Enter");
    await ann.seesProblem("The application cannot be reached.");
    assert.equal(await input.inputValue(), "do not lose me");
    await world.startApplication();
    // The application takes it this time, but its answer is lost.
    await ann.page.route("**/messages/", async (route) => {
      await route.fetch();
      await route.abort();
    }, { times: 1 });
    await input.press("Enter");
    await bob.sees(room, "do not lose me");
    await until("the text is there to be sent again", async () => await input.inputValue() === "do not lose me" && input.isEditable());
    await input.press("Enter");
    await until("it was sent", async () => await input.inputValue() === "");
    for (const person of [ann, bob]) {
      assert.deepEqual(await person.seen(room), ["do not lose me"]);
      assert.equal(person.sockets.length, 1);
    }
  });
});

describe("two instances on RabbitMQ", { skip: noBroker }, () => {
  let world;
  before(async () => { world = await World.start(process.argv[2], { instances: 2, amqp }); });
  after(() => world?.end());

  const connections = async ({ internalPort }, user) =>
    (await (await fetch(`http://127.0.0.1:${internalPort}/connections?user=${user.id}`)).json()).connections.length;

  it("of which one is killed: its client goes to the other, and nothing is lost", async (t) => {
    const both = await pair(t, world, [{ cookies: { prefers: "0" } }, { cookies: { prefers: "1" } }]);
    const [ann, bob] = both.people, [one, other] = world.instances;
    assert.deepEqual([await connections(one, ann), await connections(other, bob)], [1, 1]);
    await writeThrough(world, [both], async (all) => {
      await world.killServer(0);
      await ann.isReconnecting();
      await all(2);
      await ann.isConnected();
    });
    assert.deepEqual([await connections(other, ann), await connections(other, bob)], [1, 1]);
    assert.equal(bob.sockets.length, 1);
  });
});
