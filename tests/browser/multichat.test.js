// The chat of examples/multichat as people use it, each in a browser context of their own.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";
import { Admin, Person, World } from "./multichat-world.js";
import { stopAll, until } from "./processes.js";

let world, browser;

before(async () => {
  world = await World.start(process.argv[2]);
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
});
after(async () => {
  await browser?.close();
  await world?.end();
  await stopAll();
});

const enters = (t, user, rooms, options) => Person.enters(t, browser, world, user, rooms, options);

// One of the staff, and one of the others, in a room that no other test uses.
async function two(t, options) {
  const room = world.rooms.pop();
  const [ann, bob] = await Promise.all([world.staff.pop(), world.others.pop()].map((user) => enters(t, user, [room], options)));
  return { ann, bob, room };
}

const TRANSPORTS = [
  { title: "by WebSocket", options: {} },
  { title: "by server-sent events, where no sockets come through", options: { cookies: { blocked: "1" }, by: "Connected (server-sent events)" } },
];

describe("two people", { concurrency: 4 }, () => {
  for (const { title, options } of TRANSPORTS) {
    it(`see each other's messages, edits and deletions, ${title}`, async (t) => {
      const { ann, bob, room } = await two(t, options);
      await ann.says(room, "helo, bob");
      await bob.sees(room, "helo, bob");
      await bob.says(room, "<b>hello</b> & 'hello', ann: zażółć 🎈");
      await ann.sees(room, "<b>hello</b> & 'hello', ann: zażółć 🎈");
      assert.deepEqual(await ann.seen(room), await bob.seen(room));
      assert.equal(await bob.message(room, "helo, bob").getByRole("button").count(), 0);

      await ann.message(room, "helo, bob").getByRole("button", { name: /^Edit/ }).click();
      await ann.page.getByLabel("Edit the message").fill("hello, bob");
      await ann.page.keyboard.press("Enter");
      for (const person of [ann, bob]) {
        await person.message(room, "hello, bob").getByText("edited").waitFor();
        await person.seesNoLonger(room, "helo, bob");
      }
      await ann.message(room, "hello, bob").getByRole("button", { name: /^Delete/ }).click();
      for (const person of [ann, bob]) {
        await person.seesNoLonger(room, "hello, bob");
        assert.deepEqual(await person.seen(room), ["<b>hello</b> & 'hello', ann: zażółć 🎈"]);
        assert.deepEqual(person.problems, []);
      }
    });

    it(`see each other join and leave, come and go, ${title}`, async (t) => {
      const { ann, bob, room } = await two(t, options);
      await ann.online(bob.name).waitFor();
      await ann.panel(room).locator(".present", { hasText: bob.name }).waitFor();
      await bob.leaves(room);
      await ann.seesNotice(room, `${bob.name} has left.`);
      await bob.joins(room);
      await ann.seesNotice(room, `${bob.name} has joined.`);
      await bob.page.close();
      await ann.online(bob.name).waitFor({ state: "detached" });
      await until("ann sees bob leave again", async () => await ann.panel(room).getByText(`${bob.name} has left.`).count() === 2);
      await bob.opensPage();
      await ann.online(bob.name).waitFor();
    });

    it(`are in several rooms at once, ${title}`, async (t) => {
      const { ann, bob, room } = await two(t, options);
      const other = world.rooms.pop();
      for (const person of [ann, bob]) await person.joins(other);
      await ann.says(room, "in the one");
      await bob.says(other, "in the other");
      await bob.sees(room, "in the one");
      await ann.sees(other, "in the other");
      await ann.leaves(other);
      await ann.says(room, "still here");
      await bob.sees(room, "still here");
      assert.deepEqual(await bob.seen(other), ["in the other"]);
      if (!options.cookies) for (const person of [ann, bob]) assert.equal(person.sockets.length, 1);
    });
  }
});

describe("a room", { concurrency: 3 }, () => {
  it("shows who comes later what was said, as it is by now", async (t) => {
    const { ann, bob, room } = await two(t);
    for (const text of ["one", "two", "three"]) await ann.says(room, text);
    await ann.message(room, "two").getByRole("button", { name: /^Delete/ }).click();
    await bob.seesNoLonger(room, "two");
    const eve = await enters(t, world.others.pop(), [room]);
    assert.deepEqual(await eve.seen(room), ["one", "three"]);
    await bob.leaves(room);
    await ann.says(room, "four");
    await bob.joins(room);
    assert.deepEqual(await bob.seen(room), ["one", "three", "four"]);
  });

  for (const { title, position } of [{ title: "" }, { title: ", though high-templar could not tell its position", position: null }]) {
    it(`shows what is said while it is being joined${title}`, async (t) => {
      const { ann, bob, room } = await two(t);
      await bob.leaves(room);
      await bob.page.route(`**/api/rooms/${room.slug}/`, async (route) => {
        const response = await route.fetch();
        await ann.says(room, "you have come too late, and too early");
        await route.fulfill({ response, json: { ...await response.json(), ...(position === null && { position }) } });
      }, { times: 1 });
      await bob.joins(room);
      await bob.sees(room, "you have come too late, and too early");
      assert.equal((await bob.seen(room)).length, 1);
    });
  }

  it("is there again when the page is loaded again, without having been left", async (t) => {
    const { ann, bob, room } = await two(t);
    await bob.page.reload();
    await bob.isIn(room);
    await bob.says(room, "back");
    await ann.sees(room, "back");
    assert.equal(await ann.panel(room).getByText(`${bob.name} has left.`).count(), 0);
  });

  it("is there again even if the application could not be reached, and the page was loaded again in that moment", async (t) => {
    const { bob, room } = await two(t);
    let asked = 0;
    await bob.page.route("**/api/rooms/", async (route) => { asked += 1; await route.abort(); }, { times: 2 });
    let release;
    const held = new Promise((resolve) => { release = resolve; });
    await bob.page.route(`**/api/rooms/${room.slug}/`, async (route) => { await held; await route.abort(); }, { times: 1 });
    await bob.page.reload();
    await bob.seesProblem("The application cannot be reached.");
    await bob.entry(room).waitFor();
    assert.equal(asked, 2);
    await bob.page.getByRole("alert").waitFor({ state: "hidden" });
    await bob.page.reload(); // while the room is being fetched
    release();
    await bob.isIn(room);
    assert.deepEqual(bob.problems, []);
  });

  it("is not joined by who logs in after somebody else on the same page", async (t) => {
    const { bob, room } = await two(t);
    await bob.page.reload();
    await bob.isIn(room);
    const eve = world.others.pop();
    await bob.context.addCookies([{ name: "sessionid", value: eve.session, url: world.page }]);
    await bob.page.reload();
    await bob.isConnected();
    await bob.online(eve.name).waitFor();
    await bob.page.getByRole("button", { name: `Join ${room.name}`, exact: true }).waitFor();
    assert.equal(await bob.panel(room).count(), 0);
    await bob.context.addCookies([{ name: "sessionid", value: bob.user.session, url: world.page }]);
    await bob.page.reload();
    await bob.isIn(room);
  });

  it("whose address is too large to subscribe to is not joined", async (t) => {
    const bob = await enters(t, world.others.pop()), room = world.rooms.pop();
    let hasJoined = false;
    await bob.page.route(`**/api/rooms/${room.slug}/join/`, async (route) => { hasJoined = true; await route.continue(); });
    await bob.page.route(`**/api/rooms/${room.slug}/`, async (route) => {
      const response = await route.fetch(), json = await response.json();
      json.room.address.room = "x".repeat(2 ** 20);
      await route.fulfill({ response, json });
    });
    await bob.page.getByRole("button", { name: `Join ${room.name}`, exact: true }).click();
    await bob.seesProblem("the room is larger than a message may be");
    await bob.page.getByRole("button", { name: `Join ${room.name}`, exact: true }).waitFor();
    assert.equal(await bob.panel(room).count(), 0);
    assert.deepEqual([hasJoined, bob.problems], [false, []]);
  });

  it("is joined and left on all pages of a user", async (t) => {
    const { bob, room } = await two(t);
    const again = await enters(t, bob.user);
    await bob.leaves(room);
    await bob.joins(room);
    await again.isIn(room);
    await bob.says(room, "from the other page");
    await again.sees(room, "from the other page");
    await again.leaves(room);
    await bob.isNotIn(room);
  });

  it("is joined again at once, though the news of having left it come late", async (t) => {
    const { ann, bob, room } = await two(t);
    let release;
    const published = new Promise((resolve) => { release = resolve; });
    await bob.page.route(`**/api/rooms/${room.slug}/`, async (route) => { await published; await route.continue(); }, { times: 1 });
    await bob.leaves(room);
    await bob.page.getByRole("button", { name: `Join ${room.name}`, exact: true }).click();
    await ann.seesNotice(room, `${bob.name} has left.`); // and so has bob's page, behind it, or soon will have
    await until("all is published", () => world.hasPublished());
    release();
    await bob.isIn(room);
  });

  it("that is added, renamed, made the staff's or removed in the admin is so on every page at once", async (t) => {
    const { ann, bob, room } = await two(t);
    const admin = await Admin.enters(t, browser, world, world.staff.pop());
    await admin.changes("chat/room/add", { "Name:": "New room" });
    for (const { page } of [ann, bob]) await page.getByRole("button", { name: "Join New room" }).waitFor();

    const renamed = { ...room, name: `Renamed ${room.id}` };
    await admin.changesRoom(room, { "Name:": renamed.name });
    for (const person of [ann, bob]) await person.panel(renamed).waitFor();

    await ann.says(renamed, "before");
    await bob.sees(renamed, "before");
    await admin.changesRoom(room, { "Staff only": true });
    await bob.isNotIn(renamed);
    await bob.seesProblem(`You are not in “${renamed.name}” any more`);
    await bob.entry(renamed).getByText("staff only").waitFor();
    assert.equal(await bob.entry(renamed).getByRole("button").count(), 0);
    await ann.seesNotice(renamed, `${bob.name} has left.`);
    await ann.says(renamed, "among ourselves");

    await admin.changesRoom(room, { "Staff only": false });
    await bob.joins(renamed);
    assert.deepEqual(await bob.seen(renamed), ["before", "among ourselves"]);
    await bob.says(renamed, "here I am again");
    await ann.sees(renamed, "here I am again");

    await admin.removesRoom(room);
    for (const person of [ann, bob]) {
      await person.isNotIn(renamed);
      await person.entry(renamed).waitFor({ state: "detached" });
      await person.seesProblem("The room has been removed.");
      assert.deepEqual(person.problems, []);
    }
  });
});

describe("a staff room", { concurrency: 3 }, () => {
  async function staffRoom(t) {
    const room = world.rooms.pop();
    const admin = await Admin.enters(t, browser, world, world.staff.pop());
    await admin.changesRoom(room, { "Staff only": true });
    return { room, admin };
  }

  it("has no button for others, and high-templar does not let them in", async (t) => {
    const { room } = await staffRoom(t);
    const ann = await enters(t, world.staff.pop(), [room]), bob = await enters(t, world.others.pop());
    await bob.entry(room).getByText("staff only").waitFor();
    assert.equal(await bob.entry(room).getByRole("button").count(), 0);

    const subscribe = (person, audience) => person.page.evaluate(([port, audience, slug]) => new Promise((resolve) => {
      const socket = new WebSocket(`ws://127.0.0.1:${port}/ws/`, "high-templar.v4");
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === "welcome") socket.send(JSON.stringify({ type: "subscribe", requestId: "x", room: { audience, room: slug } }));
        if (frame.type === "reply") resolve(frame.message ?? frame.code);
      };
      socket.onclose = () => resolve("closed");
    }), [world.balancer.port, audience, room.slug]);
    assert.equal(await subscribe(bob, "staff"), "room-not-found");
    assert.equal(await subscribe(ann, "staff"), "success");
    assert.equal(await subscribe(bob, "*"), "room-not-found");
    // To its address among everybody's rooms nothing is published: whoever was told otherwise gets nothing.
    const got = bob.page.evaluate(([port, slug]) => new Promise((resolve) => {
      const frames = [], socket = new WebSocket(`ws://127.0.0.1:${port}/ws/`, "high-templar.v4");
      socket.onopen = () => {
        socket.send(JSON.stringify({ type: "subscribe", requestId: "x", room: { audience: "everyone", room: slug } }));
        socket.send(JSON.stringify({ type: "subscribe", requestId: "y", room: { list: "rooms" } }));
      };
      socket.onmessage = ({ data }) => {
        frames.push(JSON.parse(data));
        if (frames.at(-1).requestId === "y" && frames.at(-1).type === "publish") resolve(frames.filter(({ type }) => type === "publish"));
        if (frames.at(-1).requestId === "y" && frames.at(-1).type === "reply") document.title = "listening";
      };
    }), [world.balancer.port, room.slug]);
    await bob.page.waitForFunction(() => document.title === "listening");
    await ann.says(room, "among ourselves");
    await enters(t, world.others.pop()); // is told to everybody, afterwards
    assert.deepEqual((await got).map(({ requestId }) => requestId), ["y"]);
  });

  for (const { title, options } of TRANSPORTS) {
    it(`closes at once to whose rights are taken away, and to nobody else, ${title}`, async (t) => {
      const { room, admin } = await staffRoom(t);
      const open = world.rooms.pop();
      const ann = await enters(t, world.staff.pop(), [room, open], options), eve = await enters(t, world.staff.pop(), [room], options);
      await ann.says(room, "before");
      await eve.sees(room, "before");
      const attempts = [ann, eve].map(({ sockets }) => sockets.length); // where none comes through, more than one
      await admin.changesUser(ann.user, { "Staff status": false });
      await ann.isNotIn(room);
      await ann.seesProblem(`You are not in “${room.name}” any more`);
      await ann.entry(room).getByRole("button").waitFor({ state: "detached" });
      await eve.seesNotice(room, `${ann.name} has left.`);
      await eve.says(room, "among ourselves");
      await ann.says(open, "elsewhere I am undisturbed");
      assert.deepEqual([ann, eve].map(({ sockets }) => sockets.length), attempts);

      await admin.changesUser(ann.user, { "Staff status": true });
      await ann.joins(room);
      assert.deepEqual(await ann.seen(room), ["before", "among ourselves"]);
    });
  }
});

describe("a session", { concurrency: 2 }, () => {
  it("that ends takes its connections with it, and no others", async (t) => {
    const { ann, bob, room } = await two(t);
    const elsewhere = await bob.context.newPage(); // the same session
    await elsewhere.goto(world.page);
    await elsewhere.getByRole("button", { name: "Log out" }).click();
    await elsewhere.getByRole("heading", { name: "Log in" }).waitFor();
    await bob.seesProblem("You have been logged out.");
    await bob.page.getByRole("status").getByText("Disconnected").waitFor();
    await ann.seesNotice(room, `${bob.name} has left.`);
    await ann.says(room, "undisturbed");
    assert.equal(ann.sockets.length, 1);
  });

  it("of a user who is made inactive ends at once", async (t) => {
    const { ann, bob, room } = await two(t);
    const admin = await Admin.enters(t, browser, world, world.staff.pop());
    await admin.changesUser(bob.user, { "Active": false });
    await bob.seesProblem("You have been logged out.");
    await ann.seesNotice(room, `${bob.name} has left.`);
    await ann.online(bob.name).waitFor({ state: "detached" });
  });
});
