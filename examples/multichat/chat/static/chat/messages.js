// The messages of one room. Each is shown once, in its newest version, in the order of the ids, under a heading for its day.

import { dayOf, listOf } from "./days.js";
import { element } from "./dom.js";

const LIMIT = 1000; // rows; beyond it, the oldest are removed
const SURPLUS = 100; // rows that are removed at once
const NOTICES = 100; // at most

export class Messages {
  #container; #rowOf;
  #known = new Map(); // id -> { message, row }; a deleted message has no row
  #oldest = 0; // id; older messages are not shown
  #late = null; // versions of older messages that arrive while these are fetched
  newest = 0; // id
  hasOlder = false;

  /** `rowOf(message)` makes an element. */
  constructor(container, rowOf) {
    this.#container = container;
    this.#rowOf = rowOf;
  }

  get isEmpty() { return this.#rows().length === 0; }
  get isFull() { return this.#rows().length >= LIMIT - SURPLUS; }

  /** Shows the newest messages of the room, known or not. Removes older ones, because they may have changed. */
  show(page) {
    this.#forgetBefore(page.messages[0]?.id ?? 0);
    this.hasOlder = page.has_older;
    page.messages.forEach((message) => this.put(message));
  }

  /** Fetches a page of older messages. `place` gets a function that puts them in front. One call at a time. */
  async fetchOlder(fetchPage, place) {
    const before = this.#oldest;
    this.#late = [];
    try {
      const page = await fetchPage(before);
      if (before === this.#oldest) place(() => this.#prepend(page)); // otherwise messages would be missing behind the page
    } finally {
      this.#late = null;
    }
  }

  #prepend({ messages, has_older: hasOlder }) {
    this.#oldest = messages[0]?.id ?? 0;
    this.hasOlder = hasOlder;
    messages.concat(this.#late).forEach((message) => this.put(message));
  }

  /** Shows a message, unless this version or a newer one is known. */
  put(message) {
    if (message.id < this.#oldest) return void this.#late?.push(message);
    const known = this.#known.get(message.id);
    if (known && known.message.version >= message.version) return;
    const row = message.deleted ? null : this.#rowOf(message);
    if (row && known?.row) replace(known.row, row);
    else if (row) this.#insert(row, new Date(message.written));
    else if (known?.row) remove(known.row);
    this.#known.set(message.id, { message, row });
    this.newest = Math.max(this.newest, message.id);
    if (this.#rows().length > LIMIT) this.#forgetBefore(Number(this.#rows()[SURPLUS].dataset.id));
  }

  /** Adds a notice at the end. It is removed together with the message above it. */
  note(text) {
    const row = element("li", { className: "notice", textContent: text });
    row.dataset.id = this.newest;
    this.#insert(row, new Date());
    const notices = this.#container.getElementsByClassName("notice");
    if (notices.length > NOTICES) remove(notices[0]);
  }

  /** Counts the messages after the one with the id `read` for which `isWanted` is true. */
  countAfter(read, isWanted) {
    return [...this.#known.values()].filter(({ message, row }) => message.id > read && row && isWanted(message)).length;
  }

  #rows() {
    return this.#container.getElementsByTagName("li");
  }

  #insert(row, time) {
    const list = listOf(this.#container, dayOf(time));
    let next = null;
    for (let other = list.lastElementChild; other && Number(other.dataset.id) > row.dataset.id; other = other.previousElementSibling) next = other;
    list.insertBefore(row, next);
  }

  #forgetBefore(id) {
    if (id > this.#oldest) this.hasOlder = true;
    this.#oldest = Math.max(this.#oldest, id);
    [...this.#rows()].filter((row) => row.dataset.id < this.#oldest).forEach(remove);
    for (const old of this.#known.keys()) if (old < this.#oldest) this.#known.delete(old);
  }
}

function replace(old, row) {
  const hadFocus = old.contains(document.activeElement);
  old.replaceWith(row);
  if (hadFocus) row.querySelector("button")?.focus();
}

// Together with its day, if that is empty then.
function remove(row) {
  const day = row.closest(".day");
  row.remove();
  if (!day.querySelector("li")) day.remove();
}
