// The page: the connection, the list of rooms, who is online, and the rooms that the user has joined.

import { Socket } from "../high-templar/index.js";
import { call, explain, isTemporary } from "./api.js";
import { showConnection } from "./connection.js";
import { element } from "./dom.js";
import { Layout } from "./layout.js";
import { RoomList } from "./room-list.js";
import { Room } from "./room.js";

const NEWS = 10; // lines kept for screen readers

const $ = (id) => document.getElementById(id);
const config = JSON.parse($("config").textContent);

// ":8000/ws/" is on the host that this page is from, whatever it was called by.
const addresses = config.sidecar.map((address) =>
  address.startsWith(":") ? `${location.protocol.replace("http", "ws")}//${location.hostname}${address}` : address);
const socket = new Socket(addresses.length ? { url: addresses } : {});
showConnection(socket, { state: $("state"), banner: $("banner"), button: $("banner-button") });

let me = null;
let rooms = new Map(); // slug -> room: all that there are
const joined = new Map(); // slug -> Room
const online = new Map(); // id -> name
let hasBeenOpen = false;
let before = null; // slug -> id of the newest message read, for rooms joined before the page was loaded and not entered yet

const roomList = new RoomList($("rooms"), {
  onShow: show,
  onJoin: async (slug) => { await enter(slug); show(slug); },
});
const layout = new Layout($("panels"), lookAtAll);

const list = socket.feed({
  snapshot: () => call("GET", "rooms/"),
  room: { list: "rooms" },
  onSnapshot: showSnapshot,
  onPublish: ({ data }) => applyToList(data),
  shouldRetry: isTemporary,
  onRetry: ({ error }) => { if (!me) complain(explain(error)); },
  onError: ({ message, detail, cause }) => {
    if (message === "no-longer-allowed") list.refresh(); // the application knows why
    else complain(cause ? explain(cause) : detail ?? message);
  },
});

function showSnapshot(snapshot) {
  const isFirst = me === null;
  me = snapshot.me;
  rooms = new Map(snapshot.rooms.map((room) => [room.slug, room]));
  online.clear();
  snapshot.online.forEach((user) => online.set(user.id, user.name));
  for (const [slug, room] of joined) {
    if (!rooms.has(slug)) close(slug, "There is no such room any more.");
    else room.change(rooms.get(slug));
  }
  if (isFirst) begin();
  showLists();
}

function begin() {
  complain();
  before = new Map(JSON.parse(sessionStorage.getItem(memory()) ?? "[]"));
  // What the user does on other pages.
  socket.subscribe({ room: { user: me.id }, onPublish: ({ data: { event, slug } }) => {
    if (event === "joined") enter(slug);
    else if (joined.get(slug)?.panel.isConnected) close(slug); // a room being entered was left before
  } });
  [...before.keys()].filter(mayJoin).forEach((slug) => {
    enter(slug);
    layout.use(joined.get(slug).panel);
  });
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
    read: before.get(slug),
    attempt,
    onLeave: () => leave(slug),
    onOver: (reason) => close(slug, reason),
    onUnread: showUnread,
    onNews: (text) => announce(`${rooms.get(slug)?.name}, ${text}`),
  });
  joined.set(slug, room);
  const isOpen = await attempt(() => room.open());
  if (joined.get(slug) !== room) return; // closed meanwhile
  if (!isOpen) return close(slug);
  before.delete(slug);
  const after = inOrder().slice(inOrder().findIndex((other) => other.slug === slug) + 1);
  layout.add(room.panel, after.map((other) => joined.get(other.slug)?.panel).find((panel) => panel?.isConnected) ?? null);
  room.change(rooms.get(slug)); // which may have happened meanwhile
  showLists();
}

async function leave(slug) {
  const room = joined.get(slug);
  const hasLeft = await attempt(() => call("POST", `rooms/${slug}/leave/`));
  if (hasLeft && joined.get(slug) === room) close(slug); // not one that was joined since
}

// For `reason`, if the user is to be told one.
function close(slug, reason) {
  const room = joined.get(slug);
  if (!room) return;
  const hadFocus = room.panel.contains(document.activeElement);
  room.close();
  joined.delete(slug);
  layout.remove(room.panel);
  if (reason) before.delete(slug);
  if (reason) complain(`You are not in “${rooms.get(slug)?.name ?? slug}” any more: ${reason}`);
  showLists();
  if (hadFocus) roomList.focus(slug);
}

function show(slug) {
  const room = joined.get(slug);
  if (!room) return;
  layout.use(room.panel);
  room.focus();
}

// A page that is loaded again enters the rooms of the same user, in the order of use. A room that could not be entered is tried again.
const memory = () => `rooms of ${me.id}`;

function remember() {
  if (!before) return;
  const inUse = layout.used.map((panel) => [...joined.values()].find((room) => room.panel === panel));
  const all = new Map([...before, ...inUse.filter(Boolean).map(({ slug, read }) => [slug, read])]);
  sessionStorage.setItem(memory(), JSON.stringify([...all].filter(([slug]) => mayJoin(slug))));
}

function mayJoin(slug) {
  const room = rooms.get(slug);
  return room !== undefined && (!room.staff_only || me.is_staff);
}

function inOrder() {
  return [...rooms.values()].sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
}

function showLists() {
  remember();
  $("welcome").hidden = joined.size > 0;
  $("no-rooms").hidden = rooms.size > 0;
  roomList.show(inOrder(), { isJoined: ({ slug }) => joined.has(slug), mayJoin: ({ slug }) => mayJoin(slug) });
  $("online").replaceChildren(...[...online.values()].sort().map((name) => element("li", { textContent: name })));
  showUnread();
}

function showUnread() {
  let total = 0;
  for (const { slug, unread, panel } of joined.values()) {
    total += unread;
    roomList.mark(slug, unread, panel.isConnected && !panel.hidden);
  }
  document.title = total ? `(${total}) MultiChat` : "MultiChat";
}

function lookAtAll() {
  joined.forEach((room) => room.look());
  showUnread();
}

// For screen readers. A log of its own, because older messages are added to that of a room.
function announce(text) {
  $("news").append(element("p", { textContent: text }));
  if ($("news").children.length > NEWS) $("news").firstElementChild.remove();
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

socket.on("open", () => {
  // While nobody was connected, the application has taken us for gone.
  if (hasBeenOpen) joined.forEach((room) => room.join().catch(() => {}));
  hasBeenOpen = true;
});
socket.on("allowed_rooms", (allowed) => {
  if (!me) return;
  me.is_staff = allowed.some((room) => room.audience === "staff");
  joined.forEach((room) => room.rightsChanged());
  showLists();
});
document.addEventListener("visibilitychange", lookAtAll);
addEventListener("pagehide", remember);
