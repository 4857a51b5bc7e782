// The chat of examples/chat as people use it, each in a browser context of their own.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";
import { stopAll, until } from "./processes.js";
import { World } from "./world.js";

let world, browser, names = 0;

before(async () => {
  world = await World.start(process.argv[2]);
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
});
after(async () => {
  await browser?.close();
  await stopAll();
});

// Names that no other test has.
const unique = (name) => `${name}${++names}`;

class Person {
  // Stays until the end of test `t`. `prepare` may change the page before it is loaded.
  static async enters(t, name, channel, { polls = false, by = polls ? "long polling" : "WebSocket", prepare } = {}) {
    const person = new Person();
    person.name = name;
    const context = await browser.newContext();
    t.after(() => context.close());
    context.setDefaultTimeout(20_000);
    const page = person.page = await context.newPage();
    person.problems = [];
    page.on("pageerror", (error) => person.problems.push(error.message));
    await prepare?.(page);
    const answer = page.waitForResponse((response) => response.url().endsWith("/demo/connect"));
    await page.goto(world.page);
    if (polls) await page.evaluate(() => { document.getElementById("long-polling").click(); });
    await page.getByLabel("Your name").fill(name);
    await page.getByLabel("Your colour").selectOption("teal");
    await page.getByLabel("Channel", { exact: true }).fill(channel);
    await page.keyboard.press("Enter");
    person.connection = (await (await answer).json()).conn_id;
    await person.isConnected(by);
    return person;
  }

  isConnected(by) { return this.page.getByRole("status").getByText(`Connected by ${by}.`).waitFor(); }
  isNotConnected() { return this.page.locator("#state:not([data-state=connected])").waitFor(); }

  message(text) { return this.page.locator(".log:not([hidden]) > li").filter({ has: this.page.getByText(text, { exact: true }) }); }
  sees(text) { return this.message(text).waitFor(); }
  seesNoLonger(text) { return this.message(text).waitFor({ state: "detached" }); }
  seen() { return this.page.locator(".log .text").allTextContents(); }

  there(name) { return this.page.locator("#people li").filter({ has: this.page.getByText(name, { exact: true }) }); }
  seesComing(name) { return this.there(name).waitFor(); }
  seesLeaving(name) { return this.there(name).waitFor({ state: "detached" }); }
  seesColour(name, colour) { return this.there(name).locator(`.avatar[data-colour=${colour}]`).waitFor(); }

  async says(text) {
    await this.page.getByLabel("Message", { exact: true }).fill(text);
    await this.page.keyboard.press("Enter");
    await this.sees(text);
  }
  async joins(channel) {
    await this.page.getByLabel("Join a channel").fill(channel);
    await this.page.keyboard.press("Enter");
    await this.isIn(`#${channel}`);
  }
  isIn(conversation) { return this.page.getByRole("heading", { name: conversation, exact: true }).waitFor(); }
  conversation(name) { return this.page.locator("#conversations .choose").filter({ hasText: name }); }
  async leaves(conversation) {
    await this.page.getByRole("button", { name: `Leave ${conversation}`, exact: true }).click();
    await this.conversation(conversation).waitFor({ state: "detached" });
  }
}

for (const polls of [false, true]) {
  describe(polls ? "by long polling" : "by WebSocket", { concurrency: 3 }, () => {
    async function two(t) {
      const channel = unique("lobby");
      const ann = await Person.enters(t, unique("ann"), channel, { polls });
      const bob = await Person.enters(t, unique("bob"), channel, { polls });
      return { ann, bob, channel };
    }

    it("two people see each other's messages, in order", async (t) => {
      const { ann, bob } = await two(t);
      await ann.says("hello, bob");
      await bob.sees("hello, bob");
      await bob.says("<b>hello</b> & 'hello', ann: zażółć 🎈");
      await ann.sees("<b>hello</b> & 'hello', ann: zażółć 🎈");
      assert.deepEqual(await ann.seen(), await bob.seen());
      assert.deepEqual([...ann.problems, ...bob.problems], []);
    });

    it("they see each other come and go", async (t) => {
      const { ann, bob } = await two(t);
      await bob.seesComing(ann.name);
      await ann.seesComing(bob.name);
      await bob.page.close({ runBeforeUnload: true });
      await ann.seesLeaving(bob.name);
      await ann.sees(`${bob.name} has gone`);
    });

    it("a private message reaches only whom it is for", async (t) => {
      const { ann, bob, channel } = await two(t);
      const eve = await Person.enters(t, unique("eve"), channel, { polls });
      await ann.page.getByRole("button", { name: `Write to ${bob.name}` }).click();
      await ann.isIn(`@${bob.name}`);
      await ann.says("for you alone");
      await bob.conversation(`@${ann.name}`).getByText("1 new").waitFor();
      await bob.conversation(`@${ann.name}`).click();
      await bob.sees("for you alone");
      await bob.says("thank you");
      await ann.sees("thank you");
      await bob.conversation(`#${channel}`).click();
      await bob.says("hello, all");
      await eve.sees("hello, all"); // sent later
      assert.deepEqual(await eve.seen(), ["hello, all"]);
    });

    it("a message is edited and deleted for both", async (t) => {
      const { ann, bob } = await two(t);
      await ann.says("helo");
      await bob.sees("helo");
      await ann.page.keyboard.press("ArrowUp");
      await ann.page.getByLabel("Edit the message").fill("hello");
      await ann.page.keyboard.press("Enter");
      for (const person of [ann, bob]) {
        await person.message("hello").getByText("edited").waitFor();
        await person.seesNoLonger("helo");
      }
      await ann.message("hello").getByRole("button", { name: "Delete" }).click();
      for (const person of [ann, bob]) await person.seesNoLonger("hello");
    });

    it("a change of colour shows on the other side", async (t) => {
      const { ann, bob } = await two(t);
      await bob.seesColour(ann.name, "teal");
      await ann.page.getByLabel("Colour", { exact: true }).selectOption("violet");
      await bob.seesColour(ann.name, "violet");
      await ann.seesColour(`${ann.name} (you)`, "violet");
    });

    it("who comes later sees what was said, as it is by now", async (t) => {
      const { ann, channel } = await two(t);
      for (const text of ["one", "two", "three"]) await ann.says(text);
      await ann.message("two").getByRole("button", { name: "Delete" }).click();
      await ann.seesNoLonger("two");
      const eve = await Person.enters(t, unique("eve"), channel, { polls });
      await eve.sees("three");
      assert.deepEqual(await eve.seen(), ["one", "three"]);
    });

    it("another channel is joined and left", async (t) => {
      const { ann, bob } = await two(t);
      const kitchen = unique("kitchen");
      await ann.joins(kitchen);
      await ann.says("is anybody here?");
      await bob.joins(kitchen);
      await bob.sees("is anybody here?");
      await bob.says("now there is");
      await ann.sees("now there is");
      await ann.seesComing(bob.name);
      await bob.leaves(`#${kitchen}`);
      await ann.seesLeaving(bob.name);
      await ann.says("gone again");
      await ann.leaves(`#${kitchen}`);
      await ann.says("in the lobby");
      await bob.sees("in the lobby");
      assert.deepEqual(await bob.seen(), ["in the lobby"]);
    });
  });
}

describe("the application", () => {
  it("does not let anybody edit or delete what another has said, or take another's name or connection", async (t) => {
    const channel = unique("lobby");
    const ann = await Person.enters(t, unique("ann"), channel);
    const bob = await Person.enters(t, unique("bob"), channel), conn_id = bob.connection;
    const sent = ann.page.waitForResponse((response) => response.url().endsWith("/demo/message"));
    await ann.says("mine");
    await bob.sees("mine");
    const { uuid } = await (await sent).json();
    const status = (person, method, path, body) => person.page.evaluate(async ([method, path, body]) => {
      const headers = { "Content-Type": "application/json" };
      return (await fetch(path, { method, headers, body: JSON.stringify(body) })).status;
    }, [method, path, body]);
    assert.equal(await status(bob, "PATCH", "demo/message", { conn_id, uuid, text: "bob's" }), 403);
    assert.equal(await status(bob, "DELETE", "demo/message", { conn_id, uuid }), 403);
    assert.equal(await status(ann, "POST", "demo/message", { conn_id, channel, text: "as bob" }), 410);
    assert.equal(await status(bob, "POST", "demo/message", { conn_id, channel: unique("elsewhere"), text: "hello" }), 403);
    assert.equal(await status(bob, "POST", "demo/connect", { username: ann.name, colour: "red", channels: [channel] }), 409);
    assert.deepEqual(await ann.seen(), ["mine"]);
  });
});

describe("the connection", () => {
  it("is by long polling where WebSocket does not come through", async (t) => {
    const channel = unique("lobby");
    const prepare = (page) => page.addInitScript(() => {
      const Real = WebSocket;
      window.WebSocket = function (url) { return new Real(url.replace("/ws", "/nothing")); };
    });
    const ann = await Person.enters(t, unique("ann"), channel, { prepare, by: "long polling" });
    const bob = await Person.enters(t, unique("bob"), channel);
    await bob.says("hello");
    await ann.sees("hello");
  });

  it("changes to long polling and back while one is there", async (t) => {
    const channel = unique("lobby");
    const ann = await Person.enters(t, unique("ann"), channel);
    const bob = await Person.enters(t, unique("bob"), channel);
    for (const by of ["long polling", "WebSocket"]) {
      await bob.page.getByLabel("Use long polling").click();
      await bob.isConnected(by);
      await ann.says(`do you read me by ${by}?`);
      await bob.sees(`do you read me by ${by}?`);
    }
    await ann.seesComing(bob.name);
  });

  it("is opened anew when the application does not know it any more", async (t) => {
    const channel = unique("lobby");
    const ann = await Person.enters(t, unique("ann"), channel);
    const bob = await Person.enters(t, unique("bob"), channel);
    await world.restartApplication();
    await ann.page.getByLabel("Message", { exact: true }).fill("are you there?");
    const answer = ann.page.waitForResponse((response) => response.url().endsWith("/demo/connect"));
    await ann.page.keyboard.press("Enter");
    await answer;
    await ann.isConnected("WebSocket");
    await ann.says("so you are");
    await bob.sees("so you are");
  });

  it("comes back by itself after high-templar was killed, and so do channels, people and colours", async (t) => {
    const channel = unique("lobby"), kitchen = unique("kitchen");
    const ann = await Person.enters(t, unique("ann"), channel);
    const bob = await Person.enters(t, unique("bob"), channel, { polls: true });
    await ann.joins(kitchen);
    await bob.joins(kitchen);
    await ann.says("before");
    await bob.sees("before");
    await ann.page.getByLabel("Colour", { exact: true }).selectOption("pink");
    await bob.seesColour(ann.name, "pink");
    await world.killServer();
    await ann.isNotConnected();
    await world.startServer();
    await ann.isConnected("WebSocket");
    await ann.seesComing(bob.name);
    await bob.seesComing(ann.name);
    await ann.says("after");
    await bob.sees("after");
    await bob.seesColour(ann.name, "pink");
    await bob.says("welcome back");
    await ann.sees("welcome back");
    for (const person of [ann, bob]) assert.deepEqual(await person.seen(), ["before", "after", "welcome back"]);
    await until("ann is in both channels", async () => await ann.page.locator("#conversations li").count() === 2);
  });
});
