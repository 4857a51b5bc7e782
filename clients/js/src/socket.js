import { namedStreamAddress, socketAddresses, streamAddress } from "./addresses.js";
import { Connector } from "./connector.js";
import { Credentials } from "./credentials.js";
import { Emitter } from "./emitter.js";
import { NORMAL } from "./endings.js";
import { Feed } from "./feed.js";
import { root } from "./root.js";
import { Subscription } from "./subscription.js";
import { Subscriptions } from "./subscriptions.js";
import { warn } from "./warnings.js";

/** @typedef {import("./subscription.js").SubscriptionOptions} SubscriptionOptions */
/** @typedef {import("./connector.js").State} State */
/** @typedef {Record<string, unknown>} Room */

/**
 * @typedef {object} SocketOptions
 * @property {string | string[]} [url] `wss://host/ws/`, or several, of which the next one is tried after a failure. Of the
 *   page's own host, unless told.
 * @property {string | null} [token] Sent as `?token=`.
 * @property {import("./credentials.js").ParamsSource} [params] More query parameters for the application's API, or a function
 *   that returns them or a promise of them. It is called before every attempt to connect.
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

/**
 * @template {keyof SocketEvents | "*"} K
 * @typedef {K extends keyof SocketEvents ? (value: SocketEvents[K]) => unknown : (event: keyof SocketEvents, value: any) => unknown}
 *   Handler
 */

/** @typedef {{ type: string, data?: unknown, room?: Room, requestId?: string | number }} Message */

/** A connection to high-templar that is made again whenever it is lost, and subscriptions that outlive it. */
export class Socket {
  pingInterval = 30_000;
  reconnectInterval = 2_000;
  maxReconnectInterval = 30_000;
  connectTimeout = 10_000;
  pongTimeout = 10_000;
  /** @type {string | null} This connection's id; 3.1's protocol has none. */
  connection = null;
  /** @type {Room[] | null} */
  allowedRooms = null;

  /** @type {Emitter<SocketEvents>} */
  #events = new Emitter();
  #subscriptions = new Subscriptions();
  /** @type {Set<Feed<any>>} */
  #feeds = new Set();
  #credentials;
  #connector;
  #hasWarnedOfStreams = false;
  #lastError = "";
  #lastId = 0;
  /** @type {{ message: Message | null, resolve: () => void, reject: (error: Error) => void }[]} What waits for a connection. */
  #queue = [];

  /** @param {SocketOptions} [options] */
  constructor({ url, token, params, sseUrl, WebSocket = root.WebSocket, fetch = root.fetch, ...settings } = {}) {
    this.#credentials = new Credentials(token, params);
    for (const name of /** @type {const} */ ([
      "pingInterval", "reconnectInterval", "maxReconnectInterval", "connectTimeout", "pongTimeout",
    ])) {
      const value = settings[name];
      if (value !== undefined) this[name] = value;
    }
    const named = typeof sseUrl === "string" ? namedStreamAddress(sseUrl) : null;
    const stream = sseUrl === undefined ? streamAddress : () => named;
    const places = { sockets: socketAddresses(url), stream, WebSocket, fetch };
    this.#connector = new Connector(places, this, this.#credentials, this.#subscriptions, {
      onState: (state) => this.#events.emit("state", state),
      onOpen: (link, welcome) => this.#opened(link, welcome),
      onFrame: (kind, frame, requestId) => this.#received(kind, frame, requestId),
      onRefused: ({ message, status }) => this.#events.emit("refused", status ? { message, status } : { message }),
      onClose: (ending) => this.#closed(ending),
      onWaiting: (delay) => this.#events.emit("waiting", { delay }),
      onWake: (leftAt) => this.#feeds.forEach((feed) => feed.wake(leftAt)),
      onError: (error) => this.#failed(error),
    });
    this.#connector.connect();
  }

  /** Sent as `?token=` from the next connection on; `authenticate` shows it at once. @returns {string | null | undefined} */
  get token() {
    return this.#credentials.token;
  }

  set token(token) {
    this.#credentials.token = token;
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

  /**
   * Calls the handler at every event of that name; at every event of all, with its name before the value, for `"*"`.
   * @template {keyof SocketEvents | "*"} K
   * @param {K} event
   * @param {Handler<K>} handler
   */
  on(event, handler) {
    this.#events.on(event, handler);
  }

  /**
   * @template {keyof SocketEvents | "*"} K
   * @param {K} event
   * @param {Handler<K>} handler
   */
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

  /**
   * Shows the server the credentials as they are now: `params`, if given, in place of the ones before, or what the function
   * given as `params` returns. On a connection of version 4 that takes no reconnection. An event stream, or a server that does
   * not know the request, sees them at the next connection.
   * @param {import("./credentials.js").ParamsSource} [params]
   * @returns {Promise<void>} Resolved once the server has them or the next connection will show them.
   */
  authenticate(params = this.#credentials.params) {
    this.#credentials.params = params;
    return this.#connector.authenticate();
  }

  /**
   * Finds out at once whether the connection still works. Pages do so by themselves; call it where a host tells by other means
   * that it is used again, as React Native's `AppState` does.
   */
  wake() {
    this.#connector.wake(Date.now());
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
    if (link.transport === "sse") this.#warnOfStreams();
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
    const { code, reason, willReconnect } = ending;
    if (!willReconnect && code !== NORMAL && !this.#events.hears("close", "refused", "state")) {
      warn(`disconnected for good: ${code} ${reason}; connect() tries again`);
    }
    this.#events.emit("close", ending);
  }

  /** @param {Error} error */
  #failed(error) {
    // A server or proxy that garbles one frame may garble all of them.
    if (!this.#events.hears("error") && error.message !== this.#lastError) warn(error.message);
    this.#lastError = error.message;
    this.#events.emit("error", error);
  }

  #warnOfStreams() {
    const { WebSocket } = this.#connector.places;
    if (this.#hasWarnedOfStreams || WebSocket === null) return;
    this.#hasWarnedOfStreams = true;
    const why = WebSocket ? "no WebSocket can be opened" : "there is no global WebSocket, and no option WebSocket was given";
    warn(`${why}; using server-sent events, by which send() cannot send requests`);
  }
}
