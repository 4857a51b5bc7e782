// The list of all rooms: joined ones with their number of unread messages, others with a button to join.

import { element } from "./dom.js";

export class RoomList {
  #list; #onShow; #onJoin;

  constructor(list, { onShow, onJoin }) {
    this.#list = list;
    this.#onShow = onShow;
    this.#onJoin = onJoin;
  }

  /** Shows `rooms` in their order. */
  show(rooms, { isJoined, mayJoin }) {
    const hasFocus = this.#list.contains(document.activeElement) && document.activeElement.closest("[data-slug]").dataset.slug;
    this.#list.replaceChildren(...rooms.map((room) => this.#entry(room, isJoined(room), mayJoin(room))));
    if (hasFocus) this.#find(hasFocus)?.querySelector("button")?.focus(); // the focus stays with the same room
  }

  /** Updates the entry of a joined room. */
  mark(slug, unread, isInView) {
    const button = this.#find(slug)?.querySelector(".show");
    if (!button) return;
    button.querySelector(".unread").textContent = unread > 99 ? "99+" : unread || "";
    button.ariaLabel = `Show ${button.dataset.name}${unread ? `, ${unread} unread` : ""}`;
    button.ariaCurrent = isInView;
  }

  focus(slug) {
    (this.#find(slug)?.querySelector("button") ?? this.#list.querySelector("button"))?.focus();
  }

  #find(slug) {
    return this.#list.querySelector(`[data-slug="${slug}"]`);
  }

  #entry(room, isJoined, mayJoin) {
    const name = element("span", { className: "name", textContent: room.name });
    if (room.staff_only) name.append(" ", element("span", { className: "lock faint", textContent: "staff only" }));
    const entry = element("li", {});
    entry.dataset.slug = room.slug;
    if (isJoined) {
      const button = element("button", { type: "button", className: "show quiet", onclick: () => this.#onShow(room.slug) },
        name, element("span", { className: "unread" }));
      button.dataset.name = room.name;
      entry.append(button);
    } else {
      entry.append(name);
      if (mayJoin) {
        entry.append(element("button", {
          type: "button", className: "join", textContent: "Join", ariaLabel: `Join ${room.name}`, onclick: () => this.#onJoin(room.slug),
        }));
      }
    }
    return entry;
  }
}
