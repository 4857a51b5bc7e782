// One room that the user has joined, as a panel of the page.

import { call, explain, isTemporary, uuid } from "./api.js";
import { Messages } from "./messages.js";
import { fetchOnScroll } from "./older.js";
import { authorOf, rowOf } from "./row.js";
import { Scroller } from "./scroller.js";

export class Room {
  #socket; #me; #attempt; #onOver; #onUnread; #onNews; #feed; #messages; #scroller;
  #isOver = false; // not to be had any more
  #present = null; // id -> name, once it is known
  #lastUnread = 0;
  #key = uuid(); // of the next message

  /**
   * `read` is the id of the newest message that the user has read, if it is known. `attempt(call)` tells the user of a failure, and
   * resolves to whether the call succeeded. `onLeave` is called for the button, `onOver(reason)` when the user has lost the room,
   * `onUnread` when `unread` has changed, `onNews(text)` for a new message of another user.
   */
  constructor(socket, me, room, { read, attempt, onLeave, onOver, onUnread, onNews }) {
    this.#socket = socket;
    this.#me = me;
    this.slug = room.slug;
    this.read = read;
    this.#attempt = attempt;
    this.#onOver = onOver;
    this.#onUnread = onUnread;
    this.#onNews = onNews;
    this.panel = document.getElementById("panel").content.firstElementChild.cloneNode(true);
    this.#build(onLeave);
    this.name = room.name;
    this.rightsChanged();
  }

  /** Rejects if there is no snapshot to begin with. */
  async open() {
    await new Promise((resolve, reject) => this.#follow(resolve, reject));
    if (!this.#isOver) await this.join();
  }

  /** Is needed again after the last connection was lost: the application takes that for leaving. */
  join() {
    return call("POST", `rooms/${this.slug}/join/`);
  }

  close() {
    this.#feed?.close();
  }

  /** The room has been changed: perhaps it is published to another address now. */
  change(room) {
    this.name = room.name;
    const address = this.#feed?.room;
    if (address && JSON.stringify(address) !== JSON.stringify(room.address)) this.#feed.refresh();
  }

  /** Offers the kinds of messages that the user may write now. */
  rightsChanged() {
    const warning = this.#find("[value=warning]");
    warning.hidden = warning.disabled = !this.#me.is_staff;
  }

  set name(name) {
    this.#find("h2").textContent = name;
    this.#find(".leave").ariaLabel = `Leave ${name}`;
    this.#find(".log").ariaLabel = `Messages in ${name}`;
    this.#find("label").textContent = this.#text.placeholder = `Message to ${name}`;
    this.#find(".kinds").ariaLabel = `Kind of message for ${name}`;
  }

  /** Number of messages of others that the user has not read. Muted ones do not count. */
  get unread() {
    return this.#messages.countAfter(this.read, (message) => !this.#isOwn(message) && message.kind !== "muted");
  }

  /** Updates what the user has read. Call it when the panel or the window may have become visible. */
  look() {
    const isInView = this.panel.isConnected && !this.panel.hidden && document.visibilityState === "visible";
    if (isInView && this.#scroller.isAtEnd) this.read = this.#messages.newest;
    const { unread } = this, button = this.#find(".new");
    button.hidden = this.#scroller.isAtEnd || unread === 0;
    button.textContent = unread === 1 ? "1 new message" : `${unread} new messages`;
    if (unread !== this.#lastUnread) this.#onUnread();
    this.#lastUnread = unread;
  }

  focus() {
    this.#text.focus();
  }

  get #text() {
    return this.#find(".say input");
  }

  #find(selector) {
    return this.panel.querySelector(selector);
  }

  #isOwn({ author }) {
    return author?.id === this.#me.id;
  }

  #build(onLeave) {
    const id = (name) => `${this.slug}-${name}`;
    this.#find("h2").id = id("title");
    this.panel.setAttribute("aria-labelledby", id("title"));
    this.#find("label").htmlFor = this.#text.id = id("text");
    this.#find(".leave").onclick = onLeave;
    this.#find(".say").onsubmit = (event) => {
      event.preventDefault();
      this.#say();
    };
    this.#text.oninput = () => { this.#key = uuid(); }; // another message than the one that may have been sent
    const log = this.#find(".log");
    this.#messages = new Messages(this.#find(".days"), (message) => rowOf(message, this.#isOwn(message), {
      onEdit: (_, text) => this.#change("PATCH", message, { text }),
      onDelete: async () => { if (await this.#change("DELETE", message)) this.focus(); },
    }));
    this.#scroller = new Scroller(log, () => this.look());
    this.#find(".new").onclick = () => {
      log.focus(); // the button disappears
      this.#scroller.toEnd();
    };
    fetchOnScroll(log, this.#find(".older"), () => this.#fetchOlder());
  }

  // A snapshot and everything published after it.
  #follow(onOpen, onFailure) {
    let isOpen = false;
    this.#feed = this.#socket.feed({
      snapshot: () => call("GET", `rooms/${this.slug}/`),
      room: (snapshot) => snapshot.room.address,
      onSnapshot: (snapshot) => {
        this.#show(snapshot);
        isOpen = true;
        onOpen();
      },
      onPublish: ({ data }) => this.#apply(data),
      shouldRetry: (error) => isOpen && isTemporary(error),
      onError: (error) => {
        if (!isOpen) onFailure(error.cause);
        // The application knows whether the room has another address now, and if not, why not.
        else if (error.message === "by-application" || error.message === "no-longer-allowed") this.#feed.refresh();
        else this.#end(error.cause ? explain(error.cause) : error.detail ?? error.message);
      },
      onRetry: () => {}, // the banner says enough
    });
  }

  #end(reason) {
    this.#isOver = true;
    this.#onOver(reason);
  }

  async #say() {
    const input = this.#text, kinds = this.#find(".kinds");
    input.readOnly = true;
    const body = { text: input.value, kind: kinds.value, key: this.#key };
    const isSent = await this.#attempt(async () => {
      this.#put(await call("POST", `rooms/${this.slug}/messages/`, body));
      this.#scroller.toEnd();
    });
    input.readOnly = false;
    if (!isSent) return; // the text stays
    input.value = "";
    kinds.value = "normal";
    this.#key = uuid();
  }

  #change(method, message, body) {
    return this.#attempt(async () => this.#put(await call(method, `messages/${message.id}/`, body)));
  }

  #fetchOlder() {
    const page = (before) => call("GET", `rooms/${this.slug}/messages/?before=${before}`);
    return this.#attempt(() => this.#messages.fetchOlder(page, (prepend) => this.#update(prepend)));
  }

  #put(message) {
    this.#update(() => this.#messages.put(message));
  }

  #update(change) {
    this.#scroller.keep(() => {
      change();
      this.#find(".older").hidden = !this.#messages.hasOlder || this.#messages.isFull;
      this.#find(".limit").hidden = !this.#messages.hasOlder || !this.#messages.isFull;
      this.#find(".empty").hidden = !this.#messages.isEmpty;
    });
    this.look();
  }

  #show(snapshot) {
    this.name = snapshot.room.name;
    this.read ??= snapshot.messages.at(-1)?.id ?? 0; // messages from before the user joined count as read
    this.#update(() => this.#messages.show(snapshot));
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
    if (data.event === "message") this.#receive(data.message);
    if (data.event === "join") this.#came(data.user);
    if (data.event === "leave") {
      this.#went(data.user);
      if (data.reason === "gone" && data.user.id === this.#me.id) this.join().catch(() => {}); // but we are here
    }
    this.#showPresent();
  }

  #receive(message) {
    const isNew = message.id > this.#messages.newest && !message.deleted;
    this.#put(message);
    if (isNew && !this.#isOwn(message) && message.kind !== "muted") this.#onNews(`${authorOf(message)}: ${message.text}`);
  }

  #came({ id, name }) {
    if (this.#present.has(id)) return;
    this.#present.set(id, name);
    this.#update(() => this.#messages.note(`${name} has joined.`));
  }

  #went({ id, name }) {
    if (this.#present.delete(id)) this.#update(() => this.#messages.note(`${name} has left.`));
  }

  #showPresent() {
    this.#find(".count").textContent = this.#present.size;
    this.#find(".present").textContent = [...this.#present.values()].sort().join(", ") || "nobody";
    this.#find(".top p").title = this.#find(".top p").textContent; // the line may be too short for all names
  }
}
