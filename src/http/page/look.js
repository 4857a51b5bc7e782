// A user's connections, or one connection: what is known of them, why they may or may not join a room, and what can be done.

import { button } from "./act.js";
import { byId, element } from "./dom.js";
import { ask, query, Refused } from "./fetch.js";
import { bytes, count, duration, several } from "./format.js";
import { fillTable } from "./tables.js";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
// More would only make the page slow.
const SHOWN = 50;

// Who is looked for, and who was found.
let wanted = "";
let shown = [];
let shownUser = null;

async function find(text) {
  const ofUser = { ...await ask(query("connections", { user: text, limit: SHOWN })), user: text };
  if (ofUser.count > 0 || !UUID.test(text)) return ofUser;
  return { ...await ask(query("connections", { connection: text })), user: null };
}

const short = (id) => `connection ${id.slice(0, 8)}`;

function row(seen) {
  const target = { connection: seen.connection };
  return [
    () => element("code", null, seen.connection),
    seen.user ?? "–",
    seen.address ?? "–",
    duration(seen.age),
    `${seen.transport}, ${seen.protocol}`,
    count(seen.subscriptions),
    count(seen.allowed_rooms),
    bytes(seen.waiting),
    () => element("div", { className: "actions" },
      button("reauthorize", target, short(seen.connection), refresh),
      button("disconnect", target, short(seen.connection), refresh)),
  ];
}

function show({ connections, count: all, user }) {
  const whose = user === null ? "" : ` of user ${user}`;
  const more = all > connections.length ? `; these are the ${count(connections.length)} oldest` : "";
  const text = `${several(all, "connection")}${whose} on this instance${more}.`;
  if (byId("found-count").textContent !== text) byId("found-count").textContent = text;
  fillTable(byId("connections"), null, connections, ({ connection }) => connection, row);
  byId("explain").hidden = connections.length === 0;
  if (user !== shownUser || byId("found").hidden) {
    const whom = `all connections of user ${user}`;
    const actions = user === null ? [] : ["reauthorize", "disconnect"].map((action) => button(action, { user }, whom, refresh));
    actions.forEach((made) => { made.textContent += " all"; });
    byId("user-actions").replaceChildren(...actions);
  }
  [shown, shownUser] = [connections, user];
  byId("found").hidden = false;
}

/** Looks again for whom was looked for, if anybody was. */
export async function refresh() {
  const text = wanted;
  if (!text) return;
  try {
    const found = await find(text);
    if (text === wanted) show(found); // else somebody else was asked for meanwhile
  } catch (error) {
    byId("found").hidden = false;
    byId("found-count").textContent = `Not known: ${error.message}.`;
  }
}

/** Looks for a user, or a connection. */
export async function look(text) {
  byId("who").value = text;
  wanted = text.trim();
  for (const place of ["outcome", "explained"]) byId(place).replaceChildren();
  await refresh();
  byId("found").scrollIntoView({ block: "nearest" });
}

async function explain(room) {
  const answers = await Promise.all(shown.map(async ({ connection }) => {
    try {
      const { is_allowed, detail, subscriptions } = await ask(query("explain", { connection, room }));
      const reached = subscriptions.length > 0 ? ` A trigger to the room reaches its subscriptions ${subscriptions.join(", ")}.` : "";
      return [connection, is_allowed ? "may join" : "may not join", `: ${detail}.${reached}`];
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return [connection, "not explained", `: ${error.message}.`];
    }
  }));
  const line = ([connection, verdict, why]) => element("li", null, element("code", null, connection), " ", element("b", null, verdict), why);
  byId("explained").replaceChildren(element("ul", null, ...answers.map(line)));
}

byId("look").addEventListener("submit", (event) => {
  event.preventDefault();
  look(byId("who").value);
});

byId("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await explain(byId("room").value);
  } catch (error) {
    byId("explained").replaceChildren(element("p", { className: "wrong" }, `Not known: ${error.message}.`));
  }
});
