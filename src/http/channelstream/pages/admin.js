// Asks for the numbers every few seconds, and shows them.

import { load } from "./common.js";
import { byId, element } from "./dom.js";

const EVERY_MS = 3000;
// More would only make the page slow; the filter finds the rest.
const SHOWN = 200;

const TOTALS = [
  ["unique_user_count", "users with a connection"],
  ["remembered_user_count", "users remembered"],
  ["total_connections", "connections"],
  ["total_channels", "channels"],
  ["total_unique_messages", "messages"],
  ["total_messages", "deliveries"],
  ["uptime", "running for"],
  ["version", "version"],
];

const isOpen = new Set();
let shown = "";
let latest = null;

function totals(numbers) {
  const known = TOTALS.filter(([key]) => key in numbers);
  return known.map(([key, label]) => element("div", null, element("dt", null, label), element("dd", null, numbers[key])));
}

const time = (text) => text ? `${String(text).slice(0, 19).replace("T", " ")} UTC` : "–";

function channel([name, about]) {
  const settings = Object.entries(about.settings ?? {}).map(([key, value]) => `${key}: ${value}`).join(", ");
  const users = about.users ?? [];
  const history = about.history ?? [];
  const last = history.slice(-10).map((message) =>
    element("li", null, element("b", null, message.user ?? ""), ` ${time(message.timestamp)} `,
      element("code", null, JSON.stringify(message.message ?? null))));
  const details = element("details", { open: isOpen.has(name) },
    element("summary", null, element("b", null, name), ` ${about.total_connections ?? 0} connections, ${users.length} users`),
    element("p", null, "Last active ", time(about.last_active)),
    element("p", { class: "quiet" }, settings),
    element("p", null, users.length ? `Members: ${users.slice(0, SHOWN).join(", ")}` : "Nobody is here."),
    users.length > SHOWN ? element("p", { class: "quiet" }, `… and ${users.length - SHOWN} more`) : null,
    history.length ? element("p", null, `${history.length} messages in history, the latest:`) : null,
    history.length ? element("ul", null, ...last) : null);
  details.addEventListener("toggle", () => details.open ? isOpen.add(name) : isOpen.delete(name));
  return details;
}

function user(about) {
  const connections = about.connections ?? [];
  return element("tr", null,
    element("td", null, about.user),
    element("td", { title: connections.join("\n") }, connections.length),
    element("td", null, element("code", null, JSON.stringify(about.state ?? {}))));
}

function show() {
  if (latest === null) return;
  const wanted = byId("filter").value.toLowerCase();
  const has = (name) => String(name).toLowerCase().includes(wanted);
  const text = JSON.stringify([wanted, latest.channels, latest.users]);
  byId("totals").replaceChildren(...totals(latest));
  if (text === shown) return; // so that a selection stays
  shown = text;
  const channels = Object.entries(latest.channels ?? {}).filter(([name]) => has(name)).sort(([a], [b]) => a < b ? -1 : 1);
  const users = (latest.users ?? []).filter((about) => has(about.user)).sort((a, b) => a.user < b.user ? -1 : 1);
  const more = channels.length - SHOWN;
  byId("channels").replaceChildren(...channels.slice(0, SHOWN).map(channel),
    element("p", { class: "quiet" }, more > 0 ? `… and ${more} more` : channels.length ? "" : "There are none."));
  byId("users").replaceChildren(...users.slice(0, SHOWN).map(user));
  byId("more-users").textContent =
    users.length > SHOWN ? `… and ${users.length - SHOWN} more` : users.length ? "" : "There are none.";
}

async function refresh() {
  if (!document.hidden) {
    try {
      latest = await load("admin/admin.json");
      byId("state").textContent = `As of ${new Date().toLocaleTimeString()}`;
      byId("state").className = "quiet";
      show();
    } catch (error) {
      byId("state").textContent = `No news: ${error.message}`;
      byId("state").className = "wrong";
    }
  }
  setTimeout(refresh, EVERY_MS);
}

byId("filter").addEventListener("input", show);
refresh();
