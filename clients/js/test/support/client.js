import WebSocket from "ws";
import { Socket } from "../../src/index.js";
import { until } from "./ports.js";

const EVENTS = ["open", "close", "state", "allowed_rooms", "refused", "waiting", "error"];

/** A socket that is in a hurry, until the end of test `t`. `socket.events` has what it has told, such as `["open", undefined]`. */
export function connect(t, { url }, options = {}) {
  const socket = new Socket({ url, WebSocket, reconnectInterval: 20, maxReconnectInterval: 200, token: "alice", ...options });
  socket.events = [];
  for (const event of EVENTS) socket.on(event, (value) => socket.events.push([event, value]));
  socket.told = (event) => socket.events.filter(([name]) => name === event).map(([, value]) => value);
  socket.after = (end) => t.after(end);
  socket.after(() => socket.close());
  return socket;
}

export function isOpen(socket) {
  return until("the socket is open", () => socket.state === "open");
}

/**
 * A subscription. Its `log` has the data of what is published, `"reconnect"`, `"recovered"`, and `{ message }` for an error.
 */
export function subscribe(socket, room, options = {}) {
  const log = [];
  const subscription = socket.subscribe({
    room,
    onPublish: ({ data }) => log.push(data),
    onReconnect: () => log.push("reconnect"),
    onRecovered: () => log.push("recovered"),
    onError: (error) => log.push(error),
    ...options,
  });
  subscription.log = log;
  return subscription;
}

/** Waits until the subscription is confirmed: from then on it misses nothing. */
export function isConfirmed(subscription) {
  return until("the subscription is confirmed", () => subscription.position);
}

export async function logs(subscription, ...entries) {
  const what = JSON.stringify(entries);
  await until(what, () => subscription.log.length >= entries.length).catch((error) => {
    throw new Error(`${error.message}, but ${JSON.stringify(subscription.log)}`);
  });
  return subscription.log;
}
