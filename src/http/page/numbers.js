// The numbers of this instance: each place of the page names the one that stands there.

import { byId, element } from "./dom.js";
import { bytes, count, duration, several, share, word } from "./format.js";
import { fillTable } from "./tables.js";

// A dispatch that is busy for so much of the time, or with one batch for so many seconds, hardly keeps up.
const BUSY = 0.9;
const OLD_SECONDS = 1;

const WRITTEN = { bytes, count, duration, text: (text) => text, word };
const BROKER = {
  current: "consuming",
  behind: "behind: reading the log",
  away: "away: trying again",
};

const at = (status, path) => path.split(".").reduce((part, key) => part?.[key], status);

// A text that is the same is left alone, so that it stays selected.
function write(place, text, isWrong = false) {
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("wrong", isWrong);
}

function writeWords(place, counts) {
  const words = Object.entries(counts ?? {});
  const texts = words.length === 0 ? ["none"] : words.map(([name, times]) => `${word(name)}: ${count(times)}`);
  if (place.dataset.shown === texts.join()) return;
  place.dataset.shown = texts.join();
  place.replaceChildren(element("ul", null, ...texts.map((text) => element("li", null, text))));
}

/** Shows `status`, and what the dispatch did of late, as far as that is known. */
export function showNumbers(status, { busy, batch }) {
  for (const place of document.querySelectorAll("[data-number]")) {
    const value = at(status, place.dataset.number);
    write(place, value == null ? "–" : WRITTEN[place.dataset.as ?? "count"](value));
  }
  for (const place of document.querySelectorAll("[data-words]")) writeWords(place, at(status, place.dataset.words));
  const { api, broker, connections, dispatch } = status;
  const inHand = dispatch.in_hand > 0 ? `${count(dispatch.in_hand)} for ${duration(dispatch.age)}` : "nothing";
  write(byId("in-hand"), inHand, dispatch.age > OLD_SECONDS);
  write(byId("batch"), batch === null ? "–" : duration(batch), batch > OLD_SECONDS);
  write(byId("busy"), busy === null ? "–" : share(busy), busy > BUSY);
  write(byId("last-delivery"), dispatch.since_last === null ? "none yet" : `${duration(dispatch.since_last)} ago`);
  write(byId("broker-state"), BROKER[broker.state], broker.state !== "current");
  write(byId("api-state"), api.paused ? "paused: fails, or asks for it" : "in use", api.paused);
  write(byId("too-slow"), several(connections.closed["too-slow"] ?? 0, "connection"));
  byId("channelstream").hidden = status.channelstream === null;
}

/** Shows the connections that something waits for; `look` looks one up. */
export function showSlow(connections, limit, look) {
  const slow = connections.filter(({ waiting }) => waiting > 0);
  fillTable(byId("slow"), byId("no-slow"), slow, ({ connection }) => connection, (seen) => [
    `${bytes(seen.waiting)} (${share(seen.waiting / limit)})`,
    seen.user ?? "–",
    seen.address ?? "–",
    duration(seen.age),
    () => {
      const button = element("button", { type: "button", className: "link", title: "Look up" }, seen.connection);
      button.addEventListener("click", () => look(seen.connection));
      return button;
    },
  ]);
}

/** Shows the largest rooms. */
export function showRooms(rooms) {
  const text = ({ room }) => JSON.stringify(room);
  fillTable(byId("rooms"), byId("no-rooms"), rooms, text, (seen) => [() => element("code", null, text(seen)), count(seen.subscriptions)]);
}
