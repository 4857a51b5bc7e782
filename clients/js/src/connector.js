import { socketUrl, streamUrl } from "./addresses.js";
import { reconnectDelay } from "./backoff.js";
import { comesBack, endingOfRefusal, hint, isServersWord, NORMAL } from "./endings.js";
import { EventStreamLink } from "./event-stream-link.js";
import { Route } from "./route.js";
import { refuse } from "./stream-refusals.js";
import { WebSocketLink } from "./websocket-link.js";

/** @typedef {import("./endings.js").Ending} Ending */
/** @typedef {import("./route.js").Way} Way */
/** @typedef {WebSocketLink | EventStreamLink} Link */
/** @typedef {"connecting" | "open" | "waiting" | "closed"} State */

/**
 * @typedef {object} Owner Whom the connector tells.
 * @property {(state: State) => void} onState Of all but `open`.
 * @property {(link: Link, welcome: Record<string, any>) => void} onOpen
 * @property {(kind: string, frame: Record<string, any>, requestId: unknown) => void} onFrame
 * @property {(refusal: import("./endings.js").Refusal) => void} onRefused
 * @property {(ending: { code: number, reason: string, willReconnect: boolean }) => void} onClose
 * @property {(delay: number) => void} onWaiting
 * @property {(error: Error) => void} onError
 */

/**
 * How the application wants it; read anew whenever it is needed.
 * @typedef {object} Settings
 * @property {string | null | undefined} token
 * @property {number} reconnectInterval
 * @property {number} maxReconnectInterval
 */

/**
 * @typedef {object} Places
 * @property {string[]} sockets One address or more.
 * @property {(socket: string) => string | null} stream The event stream's beside it, if there is one.
 * @property {import("./websocket-link.js").SocketClass | undefined} WebSocket
 * @property {typeof fetch | undefined} fetch
 */

/** A connection that has lasted for so many reconnectIntervals makes earlier failures forgotten. */
const LASTING = 5;

/** Connects, and connects again: at any moment there is at most one link to the server. */
export class Connector {
  /** @type {State} */
  state = "closed";
  /** @type {Link | null} The link that is open, or is being opened. */
  #link = null;
  #address = 0;
  #failures = 0;
  #openedAt = 0;
  /** There is nothing to listen to by event stream. */
  #isIdle = false;
  #mustWait = false;
  /** @type {string | null} */
  #ticket = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #reopening;
  #onOnline = () => {
    if (this.state === "waiting" && !this.#mustWait) this.connect();
  };

  /**
   * @param {Places} places
   * @param {Settings & import("./websocket-link.js").LinkSettings} settings
   * @param {import("./subscriptions.js").Subscriptions} subscriptions
   * @param {Owner} owner
   */
  constructor(places, settings, subscriptions, owner) {
    this.places = places;
    this.settings = settings;
    this.subscriptions = subscriptions;
    this.owner = owner;
    const hasSocket = places.WebSocket !== undefined;
    const hasStream = places.fetch !== undefined && places.sockets.every((socket) => places.stream(socket) !== null);
    if (!hasSocket && !hasStream) throw new TypeError("there is neither WebSocket nor a way to event streams");
    this.route = new Route({ hasSocket, hasStream });
  }

  /** The link, once it is open. */
  get link() {
    return this.state === "open" ? this.#link : null;
  }

  /** Connects now, unless it is connected or connecting. */
  connect() {
    if (this.state === "connecting" || this.state === "open") return;
    if (this.state === "closed") {
      this.#failures = 0;
      globalThis.addEventListener?.("online", this.#onOnline);
    }
    clearTimeout(this.#timer);
    this.#isIdle = false;
    this.#setState("connecting");
    this.#attempt(this.route.first(Date.now(), this.subscriptions.size > 0));
  }

  /** Ends the connection, for good. */
  close() {
    if (this.state !== "closed") this.#finish({ code: NORMAL, reason: "" }, false);
  }

  /** The subscriptions have changed: that takes another event stream. Several changes at once are made together. */
  refresh() {
    if (this.state === "waiting" && this.#isIdle && this.subscriptions.size > 0) {
      this.connect();
    } else if (this.#link?.transport === "sse") {
      clearTimeout(this.#reopening);
      this.#reopening = setTimeout(() => this.#reopen());
    }
  }

  #reopen() {
    if (this.#link?.transport !== "sse") return;
    if (this.subscriptions.size === 0) this.#rest();
    else this.#attempt("sse", this.state === "open");
  }

  /** Without subscriptions there is no event stream; a socket is tried again from time to time. */
  #rest() {
    this.#isIdle = true;
    this.#finish({ code: NORMAL, reason: "no subscriptions" }, true);
  }

  /** @param {Way} way @param {boolean} [isReopened] */
  #attempt(way, isReopened = false) {
    clearTimeout(this.#reopening);
    this.#link?.close();
    const { places, settings } = this;
    const address = places.sockets[this.#address];
    const stream = places.stream(address);
    /** @type {import("./websocket-link.js").LinkHandlers} */
    const handlers = {
      onWelcome: (welcome) => this.#welcomed(way, welcome),
      onFrame: (kind, frame, requestId) => {
        if (kind === "ticket") this.#ticket = frame.ticket;
        this.owner.onFrame(kind, frame, requestId);
      },
      onEnd: (ending) => this.#ended(way, ending),
      onError: (error) => this.owner.onError(error),
    };
    if (way === "sse" && places.fetch && stream) {
      const subscriptions = this.subscriptions.list();
      const url = streamUrl(stream, subscriptions, settings.token);
      this.#link = new EventStreamLink({ url, subscriptions, fetch: places.fetch, isReopened }, handlers);
    } else if (way !== "sse" && places.WebSocket) {
      const ticket = way === "v4" ? this.#ticket : null;
      const url = socketUrl(address, { token: settings.token, resumes: ticket !== null });
      // It counts once.
      const onReached = () => void (this.#ticket = ticket ? null : this.#ticket);
      const options = { url, offersVersion4: way === "v4", ticket, WebSocket: places.WebSocket, settings };
      this.#link = new WebSocketLink(options, { ...handlers, onReached });
    }
  }

  /** @param {Way} way @param {Record<string, any>} welcome */
  #welcomed(way, welcome) {
    const link = this.#link;
    if (!link) return;
    if (!this.route.works(way)) {
      this.#attempt("v4");
      return;
    }
    if (!welcome.is_authorized) {
      this.owner.onFrame("welcome", welcome, undefined);
      if (this.#link === link) this.#finish(endingOfRefusal(welcome), true);
      return;
    }
    this.#ticket = welcome.ticket ?? this.#ticket;
    if (this.state !== "open") this.#openedAt = Date.now();
    this.state = "open";
    this.owner.onOpen(link, welcome);
  }

  /** @param {Way} way @param {Ending} ending */
  #ended(way, ending) {
    const link = this.#link;
    if (!link) return;
    const isNew = this.state === "connecting";
    if (link.transport === "sse" && ending.refusal && refuse(link, ending.refusal, this.subscriptions)) {
      if (this.#link !== link) return; // somebody who was told so has closed it
      if (this.subscriptions.size === 0) this.#rest();
      else this.#attempt("sse", link.isReopened);
      return;
    }
    if (isNew && !isServersWord(ending)) {
      const next = this.route.next(way, ending, Date.now());
      if (next) {
        this.#attempt(next);
        return;
      }
      this.#address = (this.#address + 1) % this.places.sockets.length;
    }
    this.#finish(ending, true);
  }

  /** Ends whatever there is, and settles when to come back. @param {Ending} ending @param {boolean} mayComeBack */
  #finish(ending, mayComeBack) {
    const { code, reason, refusal } = ending;
    clearTimeout(this.#timer);
    clearTimeout(this.#reopening);
    this.#link?.close();
    this.#link = null;
    if (this.state === "open") {
      const lasted = Date.now() - this.#openedAt >= LASTING * this.settings.reconnectInterval;
      if (lasted) this.#failures = 0;
      if (!this.#isIdle) this.subscriptions.lose();
    }
    this.#failures += 1;
    const willReconnect = mayComeBack && comesBack(ending);
    const when = hint(ending);
    this.#mustWait = when?.kind === "not-before";
    const delay = this.#isIdle ? this.settings.maxReconnectInterval : reconnectDelay(this.#failures, when, this.settings);
    if (willReconnect) {
      this.#timer = setTimeout(() => this.connect(), delay);
    } else {
      this.#ticket = null;
      globalThis.removeEventListener?.("online", this.#onOnline);
    }
    const state = willReconnect ? "waiting" : "closed";
    this.#setState(state);
    if (refusal) this.owner.onRefused(refusal);
    this.owner.onClose({ code, reason, willReconnect });
    // A handler may have said otherwise meanwhile.
    if (willReconnect && this.state === state) this.owner.onWaiting(delay);
  }

  /** @param {Exclude<State, "open">} state */
  #setState(state) {
    this.state = state;
    this.owner.onState(state);
  }
}
