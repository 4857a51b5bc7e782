// The page: the connection, the list of rooms, who is online, and the rooms that the user has joined.

import { Socket } from "../high-templar/index.js";
import { call, explain, Refused } from "./api.js";
import { Feed } from "./feed.js";
import { element } from "./messages.js";
import { Room } from "./room.js";

const $ = (id) => document.getElementById(id);
const config = JSON.parse($("config").textContent);

// ":8000/ws/" is on the host that this page is from, whatever it was called by.
const addresses = config.sidecar.map((address) =>
  address.startsWith(":") ? `${location.protocol.replace("http", "ws")}//${location.hostname}${address}` : address);
const socket = new Socket(addresses.length ? { url: addresses } : {});

let me = null;
let rooms = new Map(); // slug -> room: all that there are
const joined = new Map(); // slug -> Room
const online = new Map(); // id -> name
let hasBeenOpen = false;
let before = null; // slugs that were joined when the page was loaded, and have not been entered yet

const list = new Feed(socket, "rooms/", {
  address: () => ({ list: "rooms" }),
  show: showSnapshot,
  apply: applyToList,
  over: complain,
});

function showSnapshot(snapshot) {
  me = snapshot.me;
  rooms = new Map(snapshot.rooms.map((room) => [room.slug, room]));
  online.clear();
  snapshot.online.forEach((user) => online.set(user.id, user.name));
  for (const [slug, room] of joined) {
    if (!rooms.has(slug)) close(slug, "There is no such room any more.");
    else room.change(rooms.get(slug));
  }
  showLists();
}

function applyToList(data) {
  if (data.event === "room") {
    rooms.set(data.room.slug, data.room);
    joined.get(data.room.slug)?.change(data.room);
  }
  if (data.event === "room-removed") {
    close(data.slug, "The room has been removed.");
    rooms.delete(data.slug);
  }
  if (data.event === "online") online.set(data.user.id, data.user.name);
  if (data.event === "offline") online.delete(data.user.id);
  showLists();
}

async function enter(slug) {
  if (joined.has(slug) || !rooms.has(slug)) return;
  const room = new Room(socket, me, rooms.get(slug), {
    attempt,
    onLeave: () => leave(slug),
    onOver: (reason) => close(slug, reason),
  });
  joined.set(slug, room);
  const isOpen = await attempt(() => room.open());
  if (joined.get(slug) !== room) return; // closed meanwhile
  if (!isOpen) return close(slug);
  before.delete(slug);
  $("panels").append(room.section);
  room.change(rooms.get(slug)); // which may have happened meanwhile
  showLists();
}

async function leave(slug) {
  if (await attempt(() => call("POST", `rooms/${slug}/leave/`))) close(slug);
}

// For `reason`, if the user is to be told one.
function close(slug, reason) {
  const room = joined.get(slug);
  if (!room) return;
  const hadFocus = room.section.contains(document.activeElement);
  room.close();
  joined.delete(slug);
  if (reason) before.delete(slug);
  if (reason) complain(`You are not in “${rooms.get(slug)?.name ?? slug}” any more: ${reason}`);
  showLists();
  if (hadFocus) ($("rooms").querySelector(`[data-slug="${slug}"] button`) ?? $("rooms").querySelector("button"))?.focus();
}

// A page that is loaded again goes on where the same user was; a room that could not be entered is tried again then.
const memory = () => `rooms of ${me.id}`;

function remember() {
  if (!before) return;
  const slugs = new Set([...joined.keys(), ...before]);
  sessionStorage.setItem(memory(), JSON.stringify([...slugs].filter(mayJoin)));
}

function mayJoin(slug) {
  const room = rooms.get(slug);
  return room !== undefined && (!room.staff_only || me.is_staff);
}

function showLists() {
  remember();
  $("hint").hidden = joined.size > 0;
  const inOrder = [...rooms.values()].sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  keepFocus($("rooms"), () => $("rooms").replaceChildren(...inOrder.map(entry)));
  $("online").replaceChildren(...[...online.values()].sort().map((name) => element("li", { textContent: name })));
}

function entry(room) {
  const item = element("li", {}, element("span", { className: "name", textContent: room.name }));
  item.dataset.slug = room.slug;
  if (room.staff_only) item.firstChild.append(element("span", { className: "lock faint", textContent: "staff only" }));
  if (joined.has(room.slug)) {
    item.append(button("Show", room, () => show(room.slug), "quiet"));
  } else if (mayJoin(room.slug)) {
    item.append(button("Join", room, async () => { await enter(room.slug); show(room.slug); }));
  }
  return item;
}

function button(text, room, onclick, className = "") {
  return element("button", { type: "button", className, textContent: text, ariaLabel: `${text} ${room.name}`, onclick });
}

function show(slug) {
  const room = joined.get(slug);
  room?.section.scrollIntoView({ block: "nearest" });
  room?.focus();
}

// The focus stays with the same room's entry.
function keepFocus(container, change) {
  const slug = container.contains(document.activeElement) && document.activeElement.closest("[data-slug]").dataset.slug;
  change();
  if (slug) container.querySelector(`[data-slug="${slug}"] button`)?.focus();
}

function complain(text) {
  $("problem").textContent = text ?? "";
  $("problem").hidden = !text;
}

// Whether it was successful; the user is told why not.
async function attempt(action) {
  complain();
  try {
    await action();
    return true;
  } catch (error) {
    complain(explain(error));
    return false;
  }
}

function showState() {
  const texts = { open: "Connected", closed: "Disconnected" };
  const text = texts[socket.state] ?? (hasBeenOpen ? "Reconnecting…" : "Connecting…");
  $("state").textContent = socket.state === "open" && socket.transport === "sse" ? `${text} (server-sent events)` : text;
}

async function onClosed() {
  try {
    await call("GET", "bootstrap/");
    complain("The connection has been ended. Reload the page to go on.");
  } catch (error) {
    complain(error instanceof Refused ? "You have been logged out. Reload the page to log in again." : explain(error));
  }
}

socket.on("state", (state) => {
  showState();
  if (state === "closed") onClosed();
});
socket.on("open", () => {
  showState();
  // While nobody was connected, the application has taken us for gone.
  if (hasBeenOpen) joined.forEach((room) => room.join().catch(() => {}));
  hasBeenOpen = true;
});
socket.on("allowed_rooms", (allowed) => {
  if (!me) return;
  me.is_staff = allowed.some((room) => room.audience === "staff");
  showLists();
});

// The user is told of a failure, and then it is tried until the application answers.
if (!await attempt(() => list.open())) {
  await list.reopen();
  if (me) complain();
}
if (me) {
  before = new Set(JSON.parse(sessionStorage.getItem(memory()) ?? "[]"));
  // What the user does on other pages.
  socket.subscribe({ room: { user: me.id }, onPublish: ({ data }) => (data.event === "joined" ? enter(data.slug) : close(data.slug)) });
  showState();
  [...before].filter(mayJoin).forEach((slug) => enter(slug));
}
