// The application of examples/multichat, one or more instances of high-templar, and a balancer before them, on ports of their
// own; and people who use it, each in a browser context of their own.

import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Balancer } from "./balancer.js";
import { freePort, isRunning, start, stop, until, untilReady } from "./processes.js";

const MANAGE = fileURLToPath(new URL("../../examples/multichat/manage.py", import.meta.url));
const PYTHON = process.env.PYTHON ?? "python3";

// Users and rooms that are there from the beginning: a test takes those that no other has taken. Their sessions spare them the login.
const POPULATE = `
import json
from django.contrib.auth import SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from chat.models import Room

def user(name, is_staff):
    user = get_user_model().objects.create_user(name, is_staff=is_staff, is_superuser=is_staff)
    session = SessionStore()
    session.update({SESSION_KEY: str(user.pk), BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend", HASH_SESSION_KEY: user.get_session_auth_hash()})
    session.save()
    return {"id": user.pk, "name": name, "session": session.session_key}

def room(number):
    room = Room.objects.create(slug=f"room-{number}", name=f"Room {number}")
    return {"id": room.pk, "slug": room.slug, "name": room.name}

print(json.dumps({"staff": [user(f"ann{n}", True) for n in range(30)], "others": [user(f"bob{n}", False) for n in range(30)], "rooms": [room(n) for n in range(40)]}))
`;

// Messages that are not published: what was said before anybody came. They end now, and are so many minutes apart.
const FILL = `
import json, sys
from datetime import timedelta
from django.utils import timezone
from chat.models import Message
room, author, texts, minutes = json.loads(%s)
rows = [Message(room_id=room, author_id=author, text=text) for text in texts]
Message.objects.bulk_create(rows)
for number, row in enumerate(rows):
    row.written = timezone.now() - timedelta(minutes=minutes * (len(rows) - 1 - number))
Message.objects.bulk_update(rows, ["written"], batch_size=500)
`;

const COUNT = "from chat.models import Outgoing; print(Outgoing.objects.count())";

export class World {
  /** Of so many instances, which need RabbitMQ if they are several. `populate` is what makes users and rooms. */
  static async start(binary, { instances = 1, amqp, populate = POPULATE } = {}) {
    const world = new World();
    world.binary = binary;
    world.scratch = mkdtempSync(join(tmpdir(), "multichat."));
    world.port = await freePort();
    world.instances = [];
    for (let number = 0; number < instances; number++) {
      world.instances.push({ port: await freePort(), internalPort: await freePort(), log: join(world.scratch, `log-${number}`) });
    }
    world.balancer = await Balancer.start(world.instances.map(({ port }) => port));
    world.page = `http://127.0.0.1:${world.port}/`;
    const exchange = `multichat-${randomBytes(8).toString("hex")}`;
    world.broker = amqp ? { AMQP_URL: amqp, AMQP_EXCHANGE: exchange } : {};
    world.secret = randomBytes(16).toString("hex");
    await world.command("demo");
    Object.assign(world, JSON.parse(await world.command("shell", "--verbosity", "0", "--command", populate)));
    await Promise.all([world.startApplication(), ...world.instances.map((_, number) => world.startServer(number))]);
    return world;
  }

  /** Whatever has been started, also in part. */
  async end() {
    this.balancer.stop();
    await Promise.all([this.application, ...this.instances.map(({ server }) => server)].map((child) => child && stop(child, "SIGKILL")));
    rmSync(this.scratch, { recursive: true, force: true });
  }

  get environment() {
    return {
      ...this.broker,
      DEBUG: "1",
      PYTHONUNBUFFERED: "1",
      DATABASE: join(this.scratch, "db.sqlite3"),
      SIDECAR_WS: `:${this.balancer.port}/ws/`,
      SIDECAR_INTERNAL: this.instances.map(({ internalPort }) => `http://127.0.0.1:${internalPort}`).join(","),
    };
  }

  async command(...args) {
    const child = start(PYTHON, [MANAGE, ...args], this.environment);
    await child.ended;
    if (child.exitCode !== 0) throw new Error(`manage.py ${args[0]} has failed:\n${child.log}`);
    return child.log;
  }

  async startApplication() {
    this.application = start(PYTHON, [MANAGE, "runserver", "--noreload", `127.0.0.1:${this.port}`], this.environment);
    await until("the application answers", async () => isRunning(this.application) && (await fetch(`${this.page}login/`).catch(() => null))?.ok);
  }

  killApplication() { return stop(this.application, "SIGKILL"); }

  async startServer(number = 0) {
    const instance = this.instances[number];
    instance.server = start(this.binary, [], {
      ...(this.broker.AMQP_URL ? this.broker : { EMBEDDED_LOG: instance.log }),
      API_URL: `${this.page}api/`,
      HOOK_CONNECT: "hooks/connect/",
      HOOK_PING: "hooks/ping/",
      HOOK_DISCONNECT: "hooks/disconnect/",
      RESUME_SECRET: this.secret,
      ALLOWED_ORIGINS: new URL(this.page).origin,
      LISTEN: `127.0.0.1:${instance.port}`,
      INTERNAL_LISTEN: `127.0.0.1:${instance.internalPort}`,
    });
    await untilReady(instance.server, instance.internalPort);
  }

  /** Fills `room` with messages that are not published, as if they had been written every few minutes until now. */
  async fill(room, author, texts, minutes = 0) {
    const values = JSON.stringify(JSON.stringify([room.id, author.id, texts, minutes]));
    await this.command("shell", "--verbosity", "0", "--command", FILL.replace("%s", () => values));
  }

  /** Whether nothing waits in the application for being published. */
  async hasPublished() { return (await this.command("shell", "--verbosity", "0", "--command", COUNT)).trim() === "0"; }

  loseLog() { rmSync(this.instances[0].log); }

  killServer(number = 0) { return stop(this.instances[number].server, "SIGKILL"); }
}

const exactly = (text) => ({ hasText: new RegExp(`^${text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`) });

/** A user with a page, until the end of the test `t`. */
export class Person {
  /**
   * `cookies`, by name, are shown to the balancer. `rooms` are joined.
   */
  static async enters(t, browser, world, user, rooms = [], { cookies = {}, by = "Connected", ...options } = {}) {
    const person = new Person();
    Object.assign(person, user);
    person.user = user;
    person.world = world;
    person.context = await browser.newContext(options);
    t.after(() => person.context.close());
    person.context.setDefaultTimeout(20_000);
    const all = { ...cookies, ...(user.session && { sessionid: user.session }) };
    await person.context.addCookies(Object.entries(all).map(([name, value]) => ({ name, value, url: world.page })));
    await person.opensPage();
    if (user.session) await person.isConnected(by);
    for (const room of rooms) await person.joins(room);
    return person;
  }

  async opensPage() {
    const page = this.page = await this.context.newPage();
    this.problems ??= [];
    this.sockets = [];
    page.on("pageerror", (error) => this.problems.push(error.message));
    page.on("websocket", (socket) => this.sockets.push(socket));
    await page.goto(this.world.page);
  }

  isConnected(by = "Connected") { return this.page.getByRole("status").getByText(by, { exact: true }).waitFor(); }
  isReconnecting() { return this.page.getByRole("status").getByText("Reconnecting…").waitFor(); }

  async joins(room) {
    await this.page.getByRole("button", { name: `Join ${room.name}`, exact: true }).click();
    await this.isIn(room);
  }
  async leaves(room) {
    await this.page.getByRole("button", { name: `Leave ${room.name}`, exact: true }).click();
    await this.isNotIn(room);
  }
  panel(room) { return this.page.getByRole("region", { name: room.name, exact: true }); }
  // With the notice of one's own joining, or of others' when it was missed, everything later is seen.
  isIn(room) { return this.panel(room).locator(".present", { hasText: this.name }).waitFor(); }
  isNotIn(room) { return this.panel(room).waitFor({ state: "detached" }); }

  text(room, text) { return this.panel(room).locator(".text", exactly(text)); }
  message(room, text) { return this.panel(room).locator(".log li").filter({ has: this.page.locator(".text", exactly(text)) }); }
  seesNotice(room, text) { return this.panel(room).locator(".notice").getByText(text, { exact: true }).last().waitFor(); }
  sees(room, text) { return this.text(room, text).waitFor(); }
  seesNoLonger(room, text) { return this.text(room, text).waitFor({ state: "detached" }); }
  seen(room) { return this.panel(room).locator(".text").allTextContents(); }
  seesProblem(text) { return this.page.getByRole("alert").getByText(text).waitFor(); }

  /** What is to be seen of the room's log: how far the end is below the view, in pixels, and the rows in view with where they are. */
  view(room) {
    return this.panel(room).locator(".log").evaluate((log) => {
      const top = log.getBoundingClientRect().top;
      const rows = [...log.querySelectorAll(".message")].map((row) => {
        const { y, height } = row.getBoundingClientRect();
        return { text: row.querySelector(".text").textContent, top: y - top, bottom: y - top + height };
      });
      return {
        belowView: log.scrollHeight - log.scrollTop - log.clientHeight,
        rows: rows.filter((row) => row.bottom > 0 && row.top < log.clientHeight),
        screens: log.scrollHeight / log.clientHeight,
      };
    });
  }

  /** With the newest message, of this text, in view in full. */
  isAtEnd(room, text) {
    return until(`${text} is in view at the end`, async () => {
      const { belowView, rows } = await this.view(room);
      return belowView < 2 && rows.at(-1)?.text === text;
    });
  }

  scrolls(room, pixels) {
    return this.panel(room).locator(".log").evaluate((log, pixels) => new Promise((resolve) => {
      log.addEventListener("scroll", () => resolve(), { once: true });
      log.scrollBy(0, pixels);
    }), pixels);
  }

  /** By the API, all at once: resolves when the application has them. */
  async writes(room, texts, kind = "normal") {
    await this.page.evaluate(async ([slug, texts, kind]) => {
      const { call, uuid } = await import("/static/chat/api.js");
      await Promise.all(texts.map((text) => call("POST", `rooms/${slug}/messages/`, { text, kind, key: uuid() })));
    }, [room.slug, texts, kind]);
  }

  newMessages(room) { return this.panel(room).getByRole("button", { name: /new messages?$/ }); }
  unread(room) { return this.entry(room).locator(".unread"); }
  hasUnread(room, text) { return until(`${text || "nothing"} unread`, async () => await this.unread(room).textContent() === text); }

  async says(room, text) {
    const input = this.page.getByLabel(`Message to ${room.name}`, { exact: true });
    await input.fill(text);
    await input.press("Enter");
    await this.sees(room, text);
  }

  entry(room) { return this.page.locator(`#rooms [data-slug="${room.slug}"]`); }
  online(name) { return this.page.locator("#online li").getByText(name, { exact: true }); }
}

/** A member of the staff in Django's admin, in a browser context of their own. */
export class Admin {
  static async enters(t, browser, world, user) {
    const admin = new Admin();
    const context = await browser.newContext({ baseURL: world.page });
    t.after(() => context.close());
    context.setDefaultTimeout(20_000);
    await context.addCookies([{ name: "sessionid", value: user.session, url: world.page }]);
    admin.page = await context.newPage();
    return admin;
  }

  /** Fills in the fields by label, text or boolean, and saves. */
  async changes(path, fields) {
    await this.page.goto(`/admin/${path}/`);
    for (const [label, value] of Object.entries(fields)) {
      const field = this.page.getByLabel(label);
      await (typeof value === "string" ? field.fill(value) : field.setChecked(value));
    }
    await this.page.getByRole("button", { name: "Save", exact: true }).click();
    await this.page.locator(".messagelist .success").waitFor();
  }
  changesRoom(room, fields) { return this.changes(`chat/room/${room.id}/change`, fields); }
  changesUser(user, fields) { return this.changes(`auth/user/${user.id}/change`, fields); }

  async removesRoom(room) {
    await this.page.goto(`/admin/chat/room/${room.id}/delete/`);
    await this.page.getByRole("button", { name: "Yes, I’m sure" }).click();
    await this.page.locator(".messagelist .success").waitFor();
  }
}
