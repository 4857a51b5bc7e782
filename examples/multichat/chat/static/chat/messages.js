// The messages of one room, as a list on the page. A message stands there once, in its newest version, in the order of the ids.

const LIMIT = 500; // rows

export class Messages {
  #list; #me; #onEdit; #onDelete;
  #known = new Map(); // id -> { version, row: the element, none for a message that was deleted }
  #oldest = 0; // what is older is not shown

  constructor(list, me, { onEdit, onDelete }) {
    this.#list = list;
    this.#me = me;
    this.#onEdit = onEdit;
    this.#onDelete = onDelete;
  }

  /** Takes over the newest messages of the room, which may overlap with what there is. */
  show(messages) {
    this.#forgetBefore(messages[0]?.id ?? 0);
    messages.forEach((message) => this.put(message));
  }

  /** Takes over a message, unless it is known in this version or a newer one. */
  put(message) {
    const known = this.#known.get(message.id);
    if (message.id < this.#oldest || (known && known.version >= message.version)) return;
    const row = message.deleted ? null : this.#row(message);
    if (row && known?.row) {
      const hadFocus = known.row.contains(document.activeElement);
      known.row.replaceWith(row);
      if (hadFocus) row.querySelector("button")?.focus();
    } else if (row) {
      this.#insert(row, [...this.#list.children].find((other) => other.dataset.id > message.id) ?? null);
    } else {
      known?.row?.remove();
    }
    this.#known.set(message.id, { version: message.version, row });
  }

  /** Adds a line at the end that is no message. */
  note(text) {
    this.#insert(element("li", { className: "notice", textContent: text }), null);
  }

  #insert(row, before) {
    const view = this.#list.parentElement; // scrolls
    const isAtEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 40;
    this.#list.insertBefore(row, before);
    if (isAtEnd) view.scrollTop = view.scrollHeight;
    while (this.#list.children.length > LIMIT) this.#forgetFirst();
  }

  #forgetFirst() {
    const first = this.#list.firstElementChild;
    if (first.dataset.id) this.#forgetBefore(Number(first.dataset.id) + 1);
    else first.remove();
  }

  #forgetBefore(id) {
    this.#oldest = Math.max(this.#oldest, id);
    for (const [old, { row }] of this.#known) {
      if (old >= this.#oldest) continue;
      row?.remove();
      this.#known.delete(old);
    }
  }

  #row(message) {
    const written = new Date(message.written);
    const row = element("li", { className: message.author?.id === this.#me.id ? "own" : "" },
      element("span", { className: "author", textContent: message.author?.name ?? "somebody who is gone" }), " ",
      element("time", { dateTime: message.written, textContent: written.toLocaleTimeString([], { timeStyle: "short" }) }));
    row.dataset.id = message.id;
    if (message.version > 1) row.append(" ", element("span", { className: "edited", textContent: "edited" }));
    if (message.author?.id === this.#me.id) {
      const name = message.text.length > 40 ? `${message.text.slice(0, 40)}…` : message.text;
      const button = (label, onclick) => element("button", { type: "button", className: "quiet", textContent: label, ariaLabel: `${label} “${name}”`, onclick });
      row.append(" ", button("Edit", () => this.#edit(message, row)), button("Delete", () => this.#onDelete(message)));
    }
    row.append(element("div", { className: "text", textContent: message.text }));
    return row;
  }

  #edit(message, row) {
    if (row.querySelector("form")) return;
    const shown = row.querySelector(".text");
    const input = element("input", { required: true, maxLength: 2000, value: message.text, ariaLabel: "Edit the message", autocomplete: "off" });
    const editor = element("form", { className: "row" }, input, element("button", { textContent: "Save" }),
      element("button", { type: "button", className: "quiet", textContent: "Cancel", onclick: () => end() }));
    const end = () => {
      editor.replaceWith(shown);
      row.querySelector("button").focus();
    };
    editor.onsubmit = async (event) => {
      event.preventDefault();
      if (await this.#onEdit(message, input.value) && editor.isConnected) end();
    };
    input.onkeydown = (event) => { if (event.key === "Escape") end(); };
    shown.replaceWith(editor);
    input.focus();
  }
}

export function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
