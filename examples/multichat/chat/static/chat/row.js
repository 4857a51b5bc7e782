// One message as a row of the list, which its author can edit in place.

import { element } from "./dom.js";

const LABEL_LIMIT = 40; // characters of the text in names of buttons

/** `onEdit(message, text)` resolves to whether it succeeded. */
export function rowOf(message, isOwn, { onEdit, onDelete }) {
  const row = element("li", { className: `message ${message.kind}` }, headOf(message));
  row.append(element("div", { className: "text", textContent: message.text }));
  row.dataset.id = message.id;
  if (isOwn) {
    row.classList.add("own");
    row.firstElementChild.append(element("span", { className: "tools" },
      button("Edit", message, () => edit(message, row, onEdit)),
      button("Delete", message, () => onDelete(message))));
  }
  return row;
}

function headOf(message) {
  const written = new Date(message.written);
  const time = element("time", {
    dateTime: message.written,
    textContent: written.toLocaleTimeString([], { timeStyle: "short" }),
    title: written.toLocaleString([], { dateStyle: "full", timeStyle: "medium" }),
  });
  const head = element("div", { className: "head" }, element("span", { className: "author", textContent: authorOf(message) }), " ", time);
  if (message.kind === "warning") head.prepend(element("span", { className: "kind", textContent: "Warning" }), " ");
  if (message.version > 1) head.append(" ", element("span", { className: "edited", textContent: "edited" }));
  return head;
}

export function authorOf(message) {
  return message.author?.name ?? "somebody who is gone";
}

function button(label, { text }, onclick) {
  const start = text.length > LABEL_LIMIT ? `${text.slice(0, LABEL_LIMIT)}…` : text;
  return element("button", { type: "button", className: "quiet", textContent: label, ariaLabel: `${label} “${start}”`, onclick });
}

function edit(message, row, onEdit) {
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
    if (await onEdit(message, input.value) && editor.isConnected) end();
  };
  input.onkeydown = (event) => { if (event.key === "Escape") end(); };
  shown.replaceWith(editor);
  input.focus();
}
