// URLs of the server. Pure, but for the page's own address.

import { root } from "./root.js";

/** @typedef {import("./credentials.js").Texts} Texts */
/** @typedef {import("./subscription.js").Subscription} Subscription */

/** The page's address, where there is a page. @returns {string | undefined} */
function page() {
  return root.location?.href;
}

/**
 * The address of a path on the page's own host, with `ws` for `http`.
 * @param {string} pathname
 */
export function generateUrl(pathname) {
  const { protocol = "", host = "" } = root.location || {};
  if (!/^https?:$/.test(protocol)) throw new Error(`no page to take the host from (protocol ${protocol || "unknown"})`);
  return `${protocol.replace("http", "ws")}//${host}${pathname}`;
}

/**
 * The addresses of sockets that the application has named.
 * @param {string | string[] | undefined} url
 * @returns {string[]}
 */
export function socketAddresses(url) {
  const named = url === undefined ? "/ws/" : url;
  const list = Array.isArray(named) ? named : [named];
  if (list.length === 0) throw new TypeError("url is an empty list");
  return list.map((each) => {
    if (typeof each !== "string") throw new TypeError("url is no text");
    if (url === undefined && !page()) throw new TypeError("url is missing, and there is no page to take it from");
    const address = new URL(each, page());
    address.protocol = address.protocol.replace("http", "ws");
    if (!/^wss?:$/.test(address.protocol)) throw new TypeError(`not the url of a WebSocket: ${each}`);
    address.hash = "";
    return address.href;
  });
}

/**
 * The address of the event stream beside a socket's, if it is known.
 * @param {string} socketAddress
 * @returns {string | null}
 */
export function streamAddress(socketAddress) {
  const address = new URL(socketAddress);
  address.protocol = address.protocol.replace("ws", "http");
  const path = address.pathname.replace(/\/ws(\/?)$/, "/sse$1");
  if (path === address.pathname) return null;
  address.pathname = path;
  return address.href;
}

/** The address of an event stream that the application has named. @param {string} url */
export function namedStreamAddress(url) {
  return new URL(url, page()).href;
}

/** Whether a page of this one's may read every answer from there. @param {string} address */
export function isSameOrigin(address) {
  const here = root.location?.origin;
  return here === undefined || new URL(address).origin === here;
}

/** @param {string} address @param {string[]} parameters */
function withParameters(address, parameters) {
  return parameters.length === 0 ? address : `${address}${address.includes("?") ? "&" : "?"}${parameters.join("&")}`;
}

/** @param {Texts} params */
function encoded(params) {
  const names = Object.keys(params).filter((name) => params[name] !== "");
  return names.map((name) => `${encodeURIComponent(name)}=${encodeURIComponent(params[name])}`);
}

/**
 * @param {string} address
 * @param {Texts} params
 * @param {boolean} resumes Whether a resume ticket follows.
 */
export function socketUrl(address, params, resumes) {
  return withParameters(address, [...encoded(params), ...(resumes ? ["resume"] : [])]);
}

/**
 * Where all of them are: the position of most, and behind it, by their places, those of the others. Nothing where nobody has one.
 * @param {Subscription[]} subscriptions
 */
function sinceParameter(subscriptions) {
  const positions = subscriptions.map(({ position }) => position ?? "");
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const position of positions) counts.set(position, (counts.get(position) ?? 0) + 1);
  const [common = ""] = [...counts].reduce((most, each) => (each[1] > most[1] ? each : most), ["", 0]);
  const others = positions.map((position, place) => (position === common ? "" : `;${place}=${position}`));
  const since = common + others.join("");
  return since ? [`since=${encodeURIComponent(since)}`] : [];
}

/**
 * @param {string} address
 * @param {Subscription[]} subscriptions
 * @param {Texts} params
 * @param {boolean} resumes Whether it goes on from the subscriptions' positions.
 */
export function streamUrl(address, subscriptions, params, resumes) {
  const rooms = subscriptions.map(({ room }) => `room=${encodeURIComponent(JSON.stringify(room))}`);
  return withParameters(address, [...rooms, ...(resumes ? sinceParameter(subscriptions) : []), ...encoded(params)]);
}
