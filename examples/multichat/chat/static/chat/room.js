// One room that the user has joined, as a section of the page.

import { call, uuid } from "./api.js";
import { Feed } from "./feed.js";
import { Messages } from "./messages.js";

export class Room {
  #socket; #me; #attempt; #feed; #messages;
  #present = null; // id -> name, once it is known
  #key = uuid(); // of the next message

  /**
   * `attempt(call)` tells the user of a failure, and resolves with whether there was none; `onLeave` is called for the button,
   * `onOver(reason)` when the room is not to be had any more.
   */
  constructor(socket, me, room, { attempt, onLeave, onOver }) {
    this.#socket = socket;
    this.#me = me;
    this.slug = room.slug;
    this.#attempt = attempt;
    this.#feed = new Feed(socket, `rooms/${room.slug}/`, {
      address: (snapshot) => snapshot.room.address,
      show: (snapshot) => this.#show(snapshot),
      apply: (data) => this.#apply(data),
      over: onOver,
    });
    this.section = document.getElementById("panel").content.firstElementChild.cloneNode(true);
    this.#build(onLeave);
    this.name = room.name;
  }

  async open() {
    await this.#feed.open();
    if (this.#feed.address) await this.join();
  }

  /** Is needed again after the last connection was lost: the application takes that for leaving. */
  join() {
    return call("POST", `rooms/${this.slug}/join/`);
  }

  close() {
    this.#feed.close();
    this.section.remove();
  }

  /** The room has been changed: perhaps it is published to another address now. */
  change(room) {
    this.name = room.name;
    const { address } = this.#feed;
    if (address && JSON.stringify(address) !== JSON.stringify(room.address)) this.#feed.reopen();
  }

  set name(name) {
    this.#find("h2").textContent = name;
    this.#find(".leave").ariaLabel = `Leave ${name}`;
    this.#find(".log").ariaLabel = `Messages in ${name}`;
    this.#find("label").textContent = `Message to ${name}`;
  }

  focus() {
    this.#find(".say input").focus();
  }

  #find(selector) {
    return this.section.querySelector(selector);
  }

  #build(onLeave) {
    const id = (name) => `${this.slug}-${name}`;
    this.#find("h2").id = id("title");
    this.section.setAttribute("aria-labelledby", id("title"));
    this.#find("label").htmlFor = this.#find(".say input").id = id("text");
    this.#find(".leave").onclick = onLeave;
    this.#find(".say").onsubmit = (event) => {
      event.preventDefault();
      this.#say(this.#find(".say input"));
    };
    this.#find(".say input").oninput = () => { this.#key = uuid(); }; // another message than the one that may have been sent
    this.#messages = new Messages(this.#find(".log ol"), this.#me, {
      onEdit: (message, text) => this.#change("PATCH", message, { text }),
      onDelete: async (message) => { if (await this.#change("DELETE", message)) this.focus(); },
    });
  }

  async #say(input) {
    input.readOnly = true;
    const body = { text: input.value, key: this.#key };
    const isSent = await this.#attempt(async () => this.#messages.put(await call("POST", `rooms/${this.slug}/messages/`, body)));
    input.readOnly = false;
    if (!isSent) return; // the text stays
    input.value = "";
    this.#key = uuid();
  }

  #change(method, message, body) {
    return this.#attempt(async () => this.#messages.put(await call(method, `messages/${message.id}/`, body)));
  }

  #show(snapshot) {
    this.name = snapshot.room.name;
    this.#messages.show(snapshot.messages);
    if (this.#present) {
      const here = new Set(snapshot.present.map(({ id }) => id));
      this.#present.forEach((name, id) => { if (!here.has(id)) this.#went({ id, name }); });
      snapshot.present.forEach((user) => this.#came(user));
    } else {
      this.#present = new Map(snapshot.present.map(({ id, name }) => [id, name]));
    }
    this.#showPresent();
  }

  #apply(data) {
    if (data.event === "message") this.#messages.put(data.message);
    if (data.event === "join") this.#came(data.user);
    if (data.event === "leave") {
      this.#went(data.user);
      if (data.reason === "gone" && data.user.id === this.#me.id) this.join().catch(() => {}); // but we are here
    }
    this.#showPresent();
  }

  #came({ id, name }) {
    if (this.#present.has(id)) return;
    this.#present.set(id, name);
    this.#messages.note(`${name} has joined.`);
  }

  #went({ id, name }) {
    if (this.#present.delete(id)) this.#messages.note(`${name} has left.`);
  }

  #showPresent() {
    this.#find(".present").textContent = [...this.#present.values()].sort().join(", ") || "nobody";
  }
}
