import { namedStreamAddress, socketAddresses, streamAddress } from "./addresses.js";
import { Connector } from "./connector.js";
import { Emitter } from "./emitter.js";
import { Feed } from "./feed.js";
import { Subscription } from "./subscription.js";
import { Subscriptions } from "./subscriptions.js";

/** @typedef {import("./subscription.js").SubscriptionOptions} SubscriptionOptions */
/** @typedef {import("./connector.js").State} State */
/** @typedef {Record<string, unknown>} Room */

/**
 * @typedef {object} SocketOptions
 * @property {string | string[]} [url] `wss://host/ws/`, or several, of which the next one is tried after a failure. Of the
 *   page's own host, unless told.
 * @property {string | null} [token] Sent as `?token=`.
 * @property {number} [pingInterval] Milliseconds, like all of the following.
 * @property {number} [reconnectInterval] The longest first wait.
 * @property {number} [maxReconnectInterval]
 * @property {number} [connectTimeout]
 * @property {number} [pongTimeout]
 * @property {string | null} [sseUrl] Of the event stream; `null`: never.
 * @property {import("./websocket-link.js").SocketClass} [WebSocket] Another one than the global.
 * @property {typeof fetch} [fetch] Another one than the global.
 */

/**
 * @typedef {object} SocketEvents
 * @property {undefined} open The server has let us in.
 * @property {{ code: number, reason: string, willReconnect: boolean }} close A connection, or the attempt at one, has ended.
 * @property {any} message Every frame, but for `pong`.
 * @property {State} state
 * @property {Room[]} allowed_rooms
 * @property {{ message: string, status?: number }} refused The server has not let us in.
 * @property {{ delay: number }} waiting Milliseconds until the next attempt.
 * @property {Error} error Something could not be understood.
 */

/** @typedef {{ type: string, data?: unknown, room?: Room, requestId?: string | number }} Message */

/** A connection to high-templar that is made again whenever it is lost, and subscriptions that outlive it. */
export class Socket {
  pingInterval = 30_000;
  reconnectInterval = 2_000;
  maxReconnectInterval = 30_000;
  connectTimeout = 10_000;
  pongTimeout = 10_000;
  /** @type {string | null | undefined} Counts from the next connection on. */
  token;
  /** @type {string | null} This connection's id; 3.1's protocol has none. */
  connection = null;
  /** @type {Room[] | null} */
  allowedRooms = null;

  /** @type {Emitter<SocketEvents>} */
  #events = new Emitter();
  #subscriptions = new Subscriptions();
  /** @type {Set<Feed<any>>} */
  #feeds = new Set();
  #connector;
  #lastId = 0;
  /** @type {{ message: Message | null, resolve: () => void, reject: (error: Error) => void }[]} What waits for a connection. */
  #queue = [];

  /** @param {SocketOptions} [options] */
  constructor({ url, token, sseUrl, WebSocket = globalThis.WebSocket, fetch = globalThis.fetch, ...settings } = {}) {
    this.token = token;
    for (const name of /** @type {const} */ ([
      "pingInterval", "reconnectInterval", "maxReconnectInterval", "connectTimeout", "pongTimeout",
    ])) {
      const value = settings[name];
      if (value !== undefined) this[name] = value;
    }
    const named = typeof sseUrl === "string" ? namedStreamAddress(sseUrl) : null;
    const stream = sseUrl === undefined ? streamAddress : () => named;
    const places = { sockets: socketAddresses(url), stream, WebSocket, fetch };
    this.#connector = new Connector(places, this, this.#subscriptions, {
      onState: (state) => this.#events.emit("state", state),
      onOpen: (link, welcome) => this.#opened(link, welcome),
      onFrame: (kind, frame, requestId) => this.#received(kind, frame, requestId),
      onRefused: ({ message, status }) => this.#events.emit("refused", status ? { message, status } : { message }),
      onClose: (ending) => this.#closed(ending),
      onWaiting: (delay) => this.#events.emit("waiting", { delay }),
      onError: (error) => this.#events.emit("error", error),
    });
    this.#connector.connect();
  }

  /** @returns {State} */
  get state() {
    return this.#connector.state;
  }

  /** What it is connected by. @returns {"websocket" | "sse" | null} */
  get transport() {
    return this.#connector.link?.transport ?? null;
  }

  /** What is spoken. @returns {"high-templar.v4" | "3.1" | null} */
  get protocol() {
    return this.#connector.link?.protocol ?? null;
  }

  /** @returns {Subscription[]} */
  get subscriptions() {
    return this.#subscriptions.list();
  }

  /** @template {keyof SocketEvents} K @param {K} event @param {(value: SocketEvents[K]) => unknown} handler */
  on(event, handler) {
    this.#events.on(event, handler);
  }

  /** @template {keyof SocketEvents} K @param {K} event @param {(value: SocketEvents[K]) => unknown} handler */
  off(event, handler) {
    this.#events.off(event, handler);
  }

  /**
   * Listens to a room, now and after every reconnection.
   * @param {SubscriptionOptions} options
   * @returns {Subscription}
   */
  subscribe(options) {
    this.#lastId += 1;
    return this.#subscribe(options, `subscription-${this.#lastId}`);
  }

  /**
   * Follows a room from a snapshot of the application's data on: the snapshot, everything published after it, and a new
   * snapshot whenever publications may be missing.
   * @template {import("./feed.js").Snapshot} S
   * @param {import("./feed.js").FeedOptions<S>} options
   * @returns {Feed<S>}
   */
  feed(options) {
    const feed = new Feed(this, options, () => this.#feeds.delete(feed));
    this.#feeds.add(feed);
    return feed;
  }

  /**
   * Ends a subscription.
   * @param {Subscription} subscription
   * @returns {Promise<void>}
   */
  unsubscribe(subscription) {
    if (this.#subscriptions.delete(subscription)) {
      const link = this.#connector.link;
      if (link?.transport === "websocket") link.unsubscribe(subscription);
      else this.#connector.refresh();
    }
    return Promise.resolve();
  }

  /**
   * Sends a request, as soon as there is a connection. One to subscribe is kept to after reconnections like any other.
   * @param {Message} message
   * @returns {Promise<void>} Resolved when it has been handed to the transport.
   */
  send({ type, data, room, requestId }) {
    const isOurs = type === "subscribe" || type === "unsubscribe";
    if (isOurs && requestId === undefined) return Promise.reject(new TypeError("the requestId is missing"));
    if (type === "unsubscribe") {
      const subscription = this.#subscriptions.get(requestId);
      return subscription ? this.unsubscribe(subscription) : Promise.resolve();
    }
    if (type === "subscribe" && requestId !== undefined && !this.#subscriptions.get(requestId)) {
      this.#subscribe({ room: room ?? {} }, requestId);
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ message: isOurs ? null : { type, data, room, requestId }, resolve, reject });
      this.#flush();
    });
  }

  /** Connects again, after `close()` or a refusal; or at once, where it waits. */
  connect() {
    this.#connector.connect();
  }

  /** Ends the connection, until `connect()`. The subscriptions stay. */
  close() {
    this.#connector.close();
  }

  /** @param {SubscriptionOptions} options @param {string | number} requestId */
  #subscribe(options, requestId) {
    const subscription = new Subscription(options, requestId);
    const link = this.#connector.link;
    this.#subscriptions.add(subscription);
    if (link?.transport === "websocket") this.#request(link, [subscription]);
    else this.#connector.refresh();
    return subscription;
  }

  /** @param {import("./websocket-link.js").WebSocketLink} link @param {Subscription[]} subscriptions */
  #request(link, subscriptions) {
    for (const subscription of link.subscribe(subscriptions)) {
      this.#subscriptions.fail(subscription, { message: "message-too-large", detail: "the room is larger than a message may be" });
    }
  }

  #flush() {
    const link = this.#connector.link;
    if (!link) return;
    for (const { message, resolve, reject } of this.#queue.splice(0)) {
      if (message && link.transport === "sse") {
        reject(new Error(`${message.type} cannot be sent: the connection is an event stream`));
        continue;
      }
      if (message && link.transport === "websocket") link.request(message);
      resolve();
    }
  }

  /** @param {import("./connector.js").Link} link @param {Record<string, any>} welcome */
  #opened(link, welcome) {
    const isReopened = link.transport === "sse" && link.isReopened;
    const hadRooms = JSON.stringify(this.allowedRooms);
    this.#subscriptions.find();
    this.connection = welcome.connection ?? null;
    this.allowedRooms = welcome.allowed_rooms ?? [];
    // Before anybody is told, who might subscribe to more.
    if (link.transport === "websocket") this.#request(link, this.#subscriptions.list());
    if (!isReopened) {
      this.#events.emit("state", "open");
      this.#events.emit("open", undefined);
    }
    this.#events.emit("message", welcome);
    if (!isReopened || JSON.stringify(this.allowedRooms) !== hadRooms) {
      this.#events.emit("allowed_rooms", this.allowedRooms ?? []);
    }
    for (const feed of this.#feeds) feed.retryNow();
    this.#flush();
  }

  /** @param {string} kind @param {Record<string, any>} frame @param {unknown} requestId */
  #received(kind, frame, requestId) {
    this.#events.emit("message", frame);
    if (kind === "publish") {
      this.#subscriptions.published(requestId, frame);
    } else if (kind === "reply") {
      this.#subscriptions.replied(requestId, frame);
    } else if (kind === "unsubscribed") {
      this.#subscriptions.fail(this.#subscriptions.get(requestId), frame);
    } else if (kind === "resync") {
      this.#subscriptions.resync(frame);
    } else if (kind === "allowed_rooms") {
      this.allowedRooms = frame.allowed_rooms;
      this.#events.emit("allowed_rooms", frame.allowed_rooms);
    }
  }

  /** @param {SocketEvents["close"]} ending */
  #closed(ending) {
    this.connection = null;
    if (!ending.willReconnect) {
      for (const { reject } of this.#queue.splice(0)) reject(new Error("the connection is closed"));
    }
    this.#events.emit("close", ending);
  }
}
