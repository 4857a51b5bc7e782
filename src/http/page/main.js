// Asks for the numbers every two seconds while somebody looks, and shows them.

import { byId } from "./dom.js";
import { ask, query, Refused, Unauthorized, useToken } from "./fetch.js";
import { duration } from "./format.js";
import { look, refresh } from "./look.js";
import { showNumbers, showRooms, showSlow } from "./numbers.js";
import { showRates } from "./rates.js";

const EVERY_MS = 2000;
// All rooms are gone through for the largest.
const ROOMS_EVERY_MS = 10_000;
const SLOW = 10;
const ROOMS = 10;

const OBSTACLES = {
  "broker-away": "Not ready: the broker is away, or what was there before has not all been read",
  stopping: "Not ready: stopping",
};

let timer = 0;
let isAsking = false;
let roomsAt = -Infinity;
let answeredAt = null;

// It is read aloud, and so is only written when it is another one.
function say(text, className) {
  const state = byId("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = className;
}

function showStart(uptime) {
  const start = new Date(Date.now() - uptime * 1000);
  const since = start.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  byId("since").textContent = `Running since ${since} (${duration(uptime)}). As of ${answeredAt.toLocaleTimeString()}.`;
}

async function showAll() {
  const isRoomsTime = performance.now() - roomsAt > ROOMS_EVERY_MS;
  const [status, slow, rooms] = await Promise.all([
    ask("status"),
    ask(query("connections", { sort: "waiting", limit: SLOW })),
    isRoomsTime ? ask(query("rooms", { limit: ROOMS })) : null,
  ]);
  answeredAt = new Date();
  showNumbers(status, showRates(status));
  showSlow(slow.connections, status.connections.outbox_limit, look);
  if (rooms !== null) {
    showRooms(rooms.rooms);
    roomsAt = performance.now();
  }
  showStart(status.uptime);
  byId("numbers").hidden = false;
  byId("token-form").hidden = true;
  document.body.classList.remove("is-old");
  say(status.ready ? "Ready" : OBSTACLES[status.message] ?? "Not ready", status.ready ? "well" : "wrong");
  await refresh();
}

function askForToken() {
  say("This page needs a token", "wrong");
  byId("numbers").hidden = true;
  if (!byId("token-form").hidden) return;
  byId("token-form").hidden = false;
  byId("token").focus();
}

async function poll() {
  clearTimeout(timer);
  if (isAsking || document.hidden) return;
  isAsking = true;
  try {
    await showAll();
    timer = setTimeout(poll, EVERY_MS);
  } catch (error) {
    if (error instanceof Unauthorized) {
      askForToken(); // and goes on when there is one
    } else {
      document.body.classList.add("is-old");
      const since = answeredAt === null ? "" : ` since ${answeredAt.toLocaleTimeString()}: these are its last numbers`;
      say(`${error instanceof Refused ? "Refused by" : "No answer from"} the server${since} (${error.message})`, "wrong");
      timer = setTimeout(poll, EVERY_MS);
    }
  } finally {
    isAsking = false;
  }
}

byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useToken(byId("token").value.trim());
  byId("token").value = "";
  byId("token-problem").textContent = "";
  await poll();
  if (!byId("token-form").hidden) {
    byId("token-problem").textContent = "The server does not take this token.";
    byId("token").focus();
  }
});
document.addEventListener("visibilitychange", poll);
poll();
