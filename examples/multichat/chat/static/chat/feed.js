// A snapshot from the application, and everything that is published after it: nothing missing, nothing in the wrong order.
//
// The application asks for the log's position before it reads its data; the subscription begins there. So some publications
// may tell what the snapshot holds already: `apply` has to be able to stand that.

import { call, Refused } from "./api.js";

// In place of a position that the application could not find out: high-templar says that it cannot go on from there, and
// the snapshot is fetched again, behind the subscription's beginning.
const UNKNOWN = "000000000000:0";
const RETRY = 2000; // ms

export class Feed {
  #socket; #path; #address; #handlers;
  #subscription = null;
  #isStale = false;
  #held = null; // publications that wait for a snapshot
  #isClosed = false;

  /**
   * `address(snapshot)` is the room to subscribe to. `show(snapshot)` and `apply(data)` get what there is, `over(reason)` is
   * called when it is not to be had any more.
   */
  constructor(socket, path, { address, show, apply, over }) {
    this.#socket = socket;
    this.#path = path;
    this.#address = address;
    this.#handlers = { show, apply, over };
  }

  /** Rejects when there is no snapshot to begin with. */
  async open() {
    this.#begin(await call("GET", this.#path));
  }

  /** Begins anew, with another address perhaps. */
  reopen() {
    this.#unsubscribe();
    return this.#refresh();
  }

  close() {
    this.#isClosed = true;
    this.#unsubscribe();
  }

  /** The room that is subscribed to, if any. */
  get address() {
    return this.#subscription?.room;
  }

  #begin(snapshot) {
    if (this.#isClosed) return;
    this.#handlers.show(snapshot);
    const subscription = this.#socket.subscribe({
      room: this.#address(snapshot),
      since: snapshot.position ?? UNKNOWN,
      onPublish: ({ data }) => { if (this.#held) this.#held.push(data); else this.#handlers.apply(data); },
      onReconnect: () => this.#refresh(), // something may have been missed
      // Which may come before `subscribe` has returned.
      onError: (error) => queueMicrotask(() => { if (subscription === this.#subscription) this.#taken(error); }),
    });
    this.#subscription = subscription;
  }

  async #refresh() {
    this.#isStale = true;
    if (this.#held) return; // a refresh is under way, and begins again by itself
    this.#held = [];
    let snapshot;
    while (this.#isStale) {
      this.#isStale = false;
      snapshot = await this.#fetch();
    }
    const held = this.#held;
    this.#held = null;
    if (!snapshot) return;
    if (!this.#subscription) return this.#begin(snapshot);
    this.#handlers.show(snapshot);
    held.forEach((data) => this.#handlers.apply(data));
  }

  #taken({ message, detail }) {
    // The application knows: whether there is another address for it by now, and if not, why not.
    if (message === "by-application" || message === "no-longer-allowed") this.reopen();
    else this.#end(detail ?? message);
  }

  // Nothing if it is closed, or is not to be had any more.
  async #fetch() {
    while (!this.#isClosed) {
      try {
        return await call("GET", this.#path);
      } catch (error) {
        if (error instanceof Refused) return this.#end(error.message);
        await new Promise((resolve) => setTimeout(resolve, RETRY));
      }
    }
  }

  #end(reason) {
    if (this.#isClosed) return;
    this.close();
    this.#handlers.over(reason);
  }

  #unsubscribe() {
    const subscription = this.#subscription;
    this.#subscription = null;
    if (subscription) Promise.resolve(this.#socket.unsubscribe(subscription)).catch(() => {}); // over already
  }
}
