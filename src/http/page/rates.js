// What grows, as rates: now, and over the last two minutes as a line.

import { byId, element } from "./dom.js";
import { rate, share } from "./format.js";

const SHOWN_SECONDS = 120;
const HEIGHT = 32;
const SVG = "http://www.w3.org/2000/svg";

const perSecond = (value) => `${rate(value)}/s`;
const busyShare = (value) => share(Math.min(1, value));

// What each is called and counts, and how its rate is written.
const RATES = {
  triggers: ["Triggers", (status) => status.clients.rabbitmq_messages_received, perSecond],
  sent: ["Publications sent", (status) => status.clients.ws_messages_send, perSecond],
  messages: ["Client messages", (status) => status.clients.ws_messages_received, perSecond],
  busy: ["Dispatch busy", (status) => status.dispatch.busy_seconds + status.dispatch.age, busyShare],
};

let charts = null;
let last = null;

function chart([key, [label, total, text]]) {
  const number = element("span", { className: "number" }, "–");
  const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
  svg.setAttribute("viewBox", `0 0 ${SHOWN_SECONDS} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${label}: not known yet`);
  svg.append(line);
  byId("rates").append(element("div", { id: `rate-${key}` }, element("dt", null, label), element("dd", null, number, svg)));
  return { label, total, text, number, svg, line, points: [] };
}

function draw({ label, text, number, svg, line, points }, now) {
  const values = points.map(({ value }) => value), most = Math.max(...values);
  const scale = (HEIGHT - 3) / (most || 1);
  const place = ({ at, value }) => `${(SHOWN_SECONDS - (now - at)).toFixed(1)},${(HEIGHT - 1.5 - value * scale).toFixed(1)}`;
  line.setAttribute("points", points.map(place).join(" "));
  number.textContent = text(values.at(-1));
  svg.setAttribute("aria-label", `${label}: now ${text(values.at(-1))}, at most ${text(most)} within two minutes`);
}

/**
 * Takes another look at the numbers into account. Since the one before: for which part of its time the dispatch was busy, and
 * for how many seconds with a batch, on average; each is null where that is not known.
 */
export function showRates(status) {
  charts ??= Object.entries(RATES).map(chart);
  const now = performance.now() / 1000;
  const before = last !== null && status.uptime >= last.status.uptime ? last : null; // else it was started again
  last = { at: now, status };
  if (before === null) for (const chart of charts) chart.points = [];
  if (before === null || now <= before.at) return { busy: null, batch: null };
  for (const chart of charts) {
    const value = Math.max(0, chart.total(status) - chart.total(before.status)) / (now - before.at);
    chart.points = [...chart.points.filter(({ at }) => now - at <= SHOWN_SECONDS), { at: now, value }];
    draw(chart, now);
  }
  const [dispatch, earlier] = [status.dispatch, before.status.dispatch];
  const batches = dispatch.batches - earlier.batches;
  return {
    busy: Math.min(1, charts.at(-1).points.at(-1).value),
    batch: batches > 0 ? (dispatch.busy_seconds - earlier.busy_seconds) / batches : null,
  };
}
