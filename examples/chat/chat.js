import { Channelstream, Refused } from "./channelstream-client.js";

const COLOURS = ["teal", "blue", "violet", "pink", "red", "brown", "green", "grey"];
const LOG_LENGTH = 500;
const $ = (id) => document.getElementById(id);

let me = null;
let current = null;             // the conversation that is shown
const conversations = new Map();  // "#lobby" or "@bob" -> conversation
const colours = new Map();        // a user's public state is the colour

const client = new Channelstream("demo", { joined, frame, state });

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// --- what comes from the server

// What the answer to connect or subscribe says of channels one is in from now on.
function joined(channels, info) {
  for (const { user, state } of info.users) setColour(user, state?.colour);
  for (const name of new Set(channels)) {
    if (!client.channels.has(name)) continue; // left in the meantime
    const about = info.channels[name];
    const conversation = conversations.get(`#${name}`) ?? open(`#${name}`, { channel: name });
    conversation.users = new Set(about.users);
    forgetDeleted(conversation, about.history);
    for (const message of about.history) put(conversation, message);
  }
  show();
}

// After a lost connection: what is no longer in the history, though it is not older, has been deleted.
function forgetDeleted(conversation, history) {
  if (!history.length) return;
  const kept = new Set(history.map((message) => message.uuid)), oldest = time(history[0]);
  for (const [uuid, row] of conversation.rows) {
    if (!kept.has(uuid) && row.time >= oldest) remove(uuid);
  }
}

function frame(frame) {
  const conversation = frame.channel ? conversations.get(`#${frame.channel}`) : null;
  if (frame.channel && !conversation) return; // left in the meantime
  switch (frame.type) {
    case "message": {
      const talk = conversation ?? privateTalk(frame.user === me ? frame.message?.to ?? me : frame.user);
      if (put(talk, frame) && talk !== current && frame.user !== me) talk.unread++;
      break;
    }
    case "message:edit":
      edit(frame);
      break;
    case "message:delete":
      remove(frame.uuid);
      break;
    case "presence":
      if (frame.message.action === "joined") {
        if (!conversation.users.has(frame.user)) note(conversation, `${frame.user} has come`);
        conversation.users.add(frame.user);
        setColour(frame.user, frame.state?.colour);
      } else if (conversation.users.delete(frame.user)) {
        note(conversation, `${frame.user} has gone`);
      }
      break;
    case "user_state_change":
      setColour(frame.user, frame.message.state.colour);
      break;
  }
  show();
}

function state(name, detail) {
  const said = {
    connecting: "Connecting…",
    connected: `Connected by ${detail}.`,
    waiting: `No connection. Next attempt in ${detail} s.`,
    refused: "Not connected.",
    off: "",
  };
  $("state").textContent = said[name];
  $("state").dataset.state = name;
  $("retry").hidden = name !== "waiting";
  if (name === "refused") {
    complain(detail);
    leave();
  }
}

// --- conversations

function open(key, properties) {
  const log = element("ol", { className: "log", ariaLabel: `Messages in ${key}`, hidden: true });
  log.setAttribute("role", "log");
  const conversation = { key, log, rows: new Map(), users: new Set(), unread: 0, ...properties };
  conversations.set(key, conversation);
  $("logs").append(log);
  current ??= conversation;
  return conversation;
}

function privateTalk(other) {
  return conversations.get(`@${other}`) ?? open(`@${other}`, { other, users: new Set([me, other]) });
}

function choose(conversation) {
  current = conversation;
  conversation.unread = 0;
  show();
  $("logs").scrollTop = $("logs").scrollHeight;
}

function close(conversation) {
  if (conversation.channel) attempt(client.unsubscribe(conversation.channel));
  conversations.delete(conversation.key);
  conversation.log.remove();
  if (current === conversation) current = null;
  const next = current ?? conversations.values().next().value;
  if (next) choose(next);
  show();
  $(next ? "text" : "channel").focus();
}

// --- messages

function time(message) {
  // Without a zone it is UTC.
  return Date.parse(/Z$|[+-]\d\d:\d\d$/.test(message.timestamp) ? message.timestamp : `${message.timestamp}Z`);
}

// Whether the message is new here.
function put(conversation, message) {
  if (conversation.rows.has(message.uuid)) return edit(message);
  const isAtEnd = $("logs").scrollHeight - $("logs").scrollTop - $("logs").clientHeight < 40;
  const row = {
    uuid: message.uuid,
    user: message.user,
    time: time(message),
    text: element("span", { className: "text" }),
    edited: element("span", { className: "faint" }),
  };
  const when = new Date(row.time);
  const clock = element("time", { className: "faint", textContent: when.toTimeString().slice(0, 5), dateTime: when.toISOString() });
  const head = element("span", {}, element("strong", { textContent: message.user }), " ", clock, " ", row.edited);
  const buttons = element("span");
  if (message.user === me) {
    buttons.append(
      element("button", { type: "button", className: "quiet", textContent: "Edit", onclick: () => startEditing(row) }),
      element("button", { type: "button", className: "quiet", textContent: "Delete", onclick: () => deleteMessage(row) }),
    );
  }
  row.element = element("li", {}, avatar(message.user), head, buttons, row.text);
  conversation.rows.set(row.uuid, row);
  say(row, message);
  const later = [...conversation.rows.values()].find((other) => other !== row && other.time > row.time);
  conversation.log.insertBefore(row.element, later?.element ?? null);
  trim(conversation);
  if (conversation === current && (isAtEnd || message.user === me)) $("logs").scrollTop = $("logs").scrollHeight;
  return true;
}

function say(row, message) {
  row.text.textContent = message.message?.text ?? "";
  row.edited.textContent = message.edited ? "edited" : "";
}

function edit(message) {
  for (const { rows } of conversations.values()) {
    if (rows.has(message.uuid)) say(rows.get(message.uuid), message);
  }
  return false;
}

function remove(uuid) {
  for (const { rows } of conversations.values()) {
    rows.get(uuid)?.element.remove();
    rows.delete(uuid);
  }
}

function note(conversation, text) {
  conversation.log.append(element("li", { className: "note", textContent: text }));
  trim(conversation);
}

function trim({ log, rows }) {
  while (log.children.length > LOG_LENGTH) log.firstChild.remove();
  for (const [uuid, row] of rows) if (!row.element.isConnected) rows.delete(uuid);
}

function startEditing(row) {
  if (row.element.querySelector(".editor")) return;
  const field = element("input", { value: row.text.textContent, maxLength: 2000, required: true, ariaLabel: "Edit the message" });
  const form = element("form", { className: "editor row" }, field, element("button", { textContent: "Save" }));
  const stop = () => {
    form.remove();
    row.text.hidden = false;
    $("text").focus();
  };
  field.onkeydown = (event) => { if (event.key === "Escape") stop(); };
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (await attempt(client.call("PATCH", "message", { uuid: row.uuid, text: field.value }))) stop();
  };
  row.text.hidden = true;
  row.element.append(form);
  field.focus();
}

async function deleteMessage(row) {
  if (await attempt(client.call("DELETE", "message", { uuid: row.uuid }))) $("text").focus();
}

// --- people

function avatar(user) {
  const made = element("span", { className: "avatar", textContent: [...user][0].toUpperCase(), ariaHidden: "true" });
  made.dataset.user = user;
  made.dataset.colour = colours.get(user) ?? "grey";
  return made;
}

function setColour(user, colour = "grey") {
  colours.set(user, colour);
  for (const shown of document.querySelectorAll(".avatar")) {
    if (shown.dataset.user === user) shown.dataset.colour = colour;
  }
  if (user !== me) return;
  $("colour").value = colour; // perhaps chosen in another window
  client.update({ colour });
}

// --- the page

function show() {
  $("door").hidden = me !== null;
  $("chat").hidden = me === null;
  $("talk").hidden = current === null;
  for (const conversation of conversations.values()) conversation.log.hidden = conversation !== current;
  $("title").textContent = current?.key ?? "";
  keep($("conversations"), [...conversations.values()].map((conversation) => {
    const choice = element("button", { type: "button", className: "quiet choose", onclick: () => { choose(conversation); $("text").focus(); } }, conversation.key);
    if (conversation === current) choice.setAttribute("aria-current", "true");
    if (conversation.unread) choice.append(" ", element("span", { className: "unread", textContent: `${conversation.unread} new` }));
    const name = conversation.channel ? `Leave ${conversation.key}` : `Close ${conversation.key}`;
    return element("li", {}, choice, element("button", { type: "button", className: "quiet", ariaLabel: name, textContent: "×", onclick: () => close(conversation) }));
  }));
  keep($("people"), [...(current?.users ?? [])].sort().map((user) => {
    const line = element("li", {}, avatar(user), element("span", { className: "person", textContent: user === me ? `${user} (you)` : user }));
    line.title = colours.get(user) ?? "";
    if (user !== me) {
      const write = () => { choose(privateTalk(user)); $("text").focus(); };
      line.append(element("button", { type: "button", className: "quiet", textContent: "Write", ariaLabel: `Write to ${user}`, onclick: write }));
    }
    return line;
  }));
}

// Replaces what a list contains, but not what has the focus in it.
function keep(list, lines) {
  const label = list.contains(document.activeElement) && document.activeElement.textContent + document.activeElement.ariaLabel;
  list.replaceChildren(...lines);
  if (label) [...list.querySelectorAll("button")].find((button) => button.textContent + button.ariaLabel === label)?.focus();
}

function complain(text) {
  $("problem").textContent = text ?? "";
  $("problem").hidden = !text;
}

// Whether the call was successful; says why not.
async function attempt(call) {
  try {
    await call;
    complain();
    return true;
  } catch (error) {
    complain(error instanceof Refused ? error.message : "The application cannot be reached.");
    return false;
  }
}

function leave() {
  me = current = null;
  for (const conversation of conversations.values()) conversation.log.remove();
  conversations.clear();
  colours.clear();
  show();
  $("username").focus();
}

for (const list of [$("first-colour"), $("colour")]) list.append(...COLOURS.map((colour) => new Option(colour)));
$("first-colour").selectedIndex = Math.floor(Math.random() * COLOURS.length);

$("enter").onsubmit = (event) => {
  event.preventDefault();
  complain();
  me = $("username").value.trim();
  $("my-name").textContent = me;
  $("my-avatar").replaceWith(Object.assign(avatar(me), { id: "my-avatar" }));
  client.connect({ username: me, colour: $("first-colour").value }, [$("first-channel").value.trim()]);
  show();
  $("text").focus();
};
$("leave").onclick = () => {
  client.disconnect();
  leave();
};
$("join").onsubmit = async (event) => {
  event.preventDefault();
  const name = $("channel").value.trim();
  if (!await attempt(client.subscribe(name))) return;
  $("channel").value = "";
  if (!conversations.has(`#${name}`)) open(`#${name}`, { channel: name }); // known only once there is a connection
  choose(conversations.get(`#${name}`));
  $("text").focus();
};
$("channel").onfocus = async () => {
  const { channels } = await client.call("POST", "info", {}).catch(() => ({ channels: {} }));
  const others = Object.entries(channels).filter(([name]) => !client.channels.has(name));
  $("channels").replaceChildren(...others.map(([name, users]) => element("option", { value: name, label: `${name} (${users})` })));
};
$("say").onsubmit = async (event) => {
  event.preventDefault();
  const to = current.channel ? { channel: current.channel } : { to: current.other };
  if (await attempt(client.call("POST", "message", { ...to, text: $("text").value }))) $("text").value = "";
};
$("text").onkeydown = (event) => {
  if (event.key !== "ArrowUp" || $("text").value) return;
  const own = [...current.rows.values()].findLast((row) => row.user === me);
  if (!own) return;
  event.preventDefault();
  startEditing(own);
};
$("colour").onchange = () => attempt(client.call("POST", "user_state", { colour: $("colour").value }));
$("long-polling").onchange = () => {
  client.usesLongPolling = $("long-polling").checked;
  client.reconnect();
};
$("retry").onclick = () => client.retry();
window.addEventListener("online", () => client.retry());
window.addEventListener("pagehide", () => { if (me !== null) client.disconnect(); });
window.addEventListener("pageshow", (event) => { if (event.persisted && me !== null) client.connect({ username: me, colour: $("colour").value }); });
show();
