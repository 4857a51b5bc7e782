import { socketUrl, streamUrl } from "./addresses.js";
import { reconnectDelay } from "./backoff.js";
import { isPromise } from "./credentials.js";
import { BROKEN, comesBack, endingOfRefusal, hint, isServersWord, NORMAL, NOT_AUTHORIZED, NOT_ANY_MORE } from "./endings.js";
import { EventStreamLink } from "./event-stream-link.js";
import { Route } from "./route.js";
import { refuse } from "./stream-refusals.js";
import { Wakeup } from "./wakeup.js";
import { WebSocketLink } from "./websocket-link.js";

/** @typedef {import("./endings.js").Ending} Ending */
/** @typedef {import("./route.js").Way} Way */
/** @typedef {import("./subscription.js").Subscription} Subscription */
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
 * @property {(leftAt: number) => void} onWake
 * @property {(error: Error) => void} onError
 */

/**
 * How the application wants it; read anew whenever it is needed.
 * @typedef {object} Settings
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

/** Between two event streams for other subscriptions there is so much time, at least. */
const REOPEN_MS = 250;

/** A connection that is lost so shortly after a wake-up was lost before. */
const WAKING_MS = 5000;

/** Connects, and connects again: at any moment there is at most one link to the server. */
export class Connector {
  /** @type {State} */
  state = "closed";
  /** @type {Link | null} The link that is open, or is being opened. */
  #link = null;
  #address = 0;
  #failures = 0;
  #openedAt = 0;
  /** There is nothing to listen to by event stream: sockets may be tried, but nobody hears of it. */
  #isIdle = false;
  /** The subscriptions have changed since the last attempt. */
  #isStale = false;
  #attemptedAt = 0;
  #mustWait = false;
  /** @type {Way} Of the latest attempt. */
  #way = "v4";
  /** Identifies the latest attempt while its parameters are evaluated. @type {object | null} */
  #attempted = null;
  /** Which credentials the server has been shown. */
  #shownVersion = 0;
  /** @type {string[]} Of the parameters. */
  #shownNames = [];
  #wokenAt = -Infinity;
  /** @type {string | null} */
  #ticket = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #reopening;
  #wakeup = new Wakeup((leftAt, wasHidden) => this.wake(leftAt, wasHidden));

  /**
   * @param {Places} places
   * @param {Settings & import("./websocket-link.js").LinkSettings} settings
   * @param {import("./credentials.js").Credentials} credentials
   * @param {import("./subscriptions.js").Subscriptions} subscriptions
   * @param {Owner} owner
   */
  constructor(places, settings, credentials, subscriptions, owner) {
    this.places = places;
    this.credentials = credentials;
    this.settings = settings;
    this.subscriptions = subscriptions;
    this.owner = owner;
    const hasSocket = Boolean(places.WebSocket);
    const hasStream = Boolean(places.fetch) && places.sockets.every((socket) => places.stream(socket) !== null);
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
      this.#wakeup.start();
    }
    clearTimeout(this.#timer);
    this.#isIdle = false;
    this.#setState("connecting");
    this.#try(this.route.first(Date.now(), this.subscriptions.size > 0));
  }

  /** Ends the connection, for good. */
  close() {
    if (this.state !== "closed") this.#finish({ code: NORMAL, reason: "" }, false);
  }

  /**
   * The page is used again, which was left at that time: finds out at once whether there still is a connection.
   * @param {number} leftAt
   * @param {boolean} wasHidden Whether an event stream is to be opened again, too, which asks the API.
   */
  wake(leftAt, wasHidden = true) {
    this.#wokenAt = Date.now();
    this.#failures = 0;
    if (this.state === "waiting" && !this.#isIdle && !this.#mustWait) {
      this.connect();
    } else if (this.state === "connecting" && this.#attemptedAt <= leftAt) {
      this.#attempt(this.#way);
    } else if (this.link?.transport === "websocket") {
      this.link.probe();
    } else if (this.link && wasHidden && this.#attemptedAt <= leftAt) {
      // An event stream cannot be asked for a sign of life.
      this.#attempt("sse", { isReopened: true });
    }
    this.owner.onWake(leftAt);
  }

  /**
   * Shows the server the credentials as they are now. Where it cannot take them, the next connection shows them.
   * @returns {Promise<void>} Rejected when they cannot be evaluated, or the server does not accept their form.
   */
  async authenticate() {
    const { link, credentials } = this;
    if (link?.transport !== "websocket" || link.protocol === "3.1") return;
    const { version } = credentials;
    const params = await credentials.read();
    if (this.link !== link) return;
    // Those that are not named stay, so that they have to be emptied.
    for (const name of this.#shownNames) if (!(name in params)) params[name] = "";
    const reply = await link.ask({ type: "authenticate", params });
    if (reply?.code === "success") {
      this.#shownVersion = version;
      this.#shownNames = Object.keys(params);
    }
    // A server from before this frame keeps what it was shown first, until it does not authorise it any more.
    if (reply?.code === "error" && reply.message !== "message-type-not-allowed") throw new Error(reply.detail ?? reply.message);
  }

  /** The subscriptions have changed: that takes another event stream. Several changes at once are made together. */
  refresh() {
    this.#isStale = true;
    this.#planReopening();
  }

  /** A stream that is being opened is let finish first: who changes them all the time would never get one. */
  #planReopening() {
    const isSettled = this.#link?.transport === "sse" && this.#link.isSettled;
    if (!this.#isStale || !(isSettled || this.#isIdle)) return;
    clearTimeout(this.#reopening);
    const wait = this.#attemptedAt + REOPEN_MS - Date.now();
    this.#reopening = setTimeout(() => this.#reopen(), Math.min(wait, REOPEN_MS)); // whatever has become of the clock
  }

  #reopen() {
    const hasRooms = this.subscriptions.size > 0;
    if (this.#isIdle && hasRooms) this.connect();
    else if (hasRooms) this.#attempt("sse", { isReopened: true });
    else this.#rest();
  }

  /** Without subscriptions there is no event stream. From time to time a socket is tried again. */
  #rest() {
    const wasIdle = this.#isIdle;
    this.#isIdle = true;
    this.#unlink();
    this.#mustWait = false;
    if (this.places.WebSocket) {
      this.#timer = setTimeout(() => this.#attempt(this.route.first(Date.now(), false)), this.settings.maxReconnectInterval);
    }
    if (wasIdle) return;
    this.#setState("waiting");
    this.owner.onClose({ code: NORMAL, reason: "no subscriptions", willReconnect: true });
  }

  /** @param {Way} way */
  #try(way) {
    // Where it is not known yet what the server speaks, even the answer that a room is missing tells.
    const isPointless = way === "sse" && this.subscriptions.size === 0 && (this.route.isByStream || !this.places.WebSocket);
    if (isPointless) this.#rest();
    else this.#attempt(way);
  }

  /** @param {Way} way @param {{ isReopened?: boolean, resumes?: boolean }} [stream] */
  #attempt(way, stream = {}) {
    this.#unlink();
    this.#way = way;
    this.#attemptedAt = Date.now();
    this.#shownVersion = this.credentials.version;
    /** @type {any} */
    let params;
    try {
      params = this.credentials.read();
    } catch (error) {
      params = Promise.reject(error);
    }
    if (!isPromise(params)) {
      this.#open(way, params, stream);
      return;
    }
    const attempt = {};
    this.#attempted = attempt;
    const settle = (/** @type {() => void} */ next) => {
      if (this.#attempted !== attempt) return;
      this.#attempted = null;
      clearTimeout(this.#timer);
      next();
    };
    const fail = (/** @type {unknown} */ error) => settle(() => {
      this.owner.onError(new Error(`the parameters could not be evaluated: ${error}`));
      if (this.state !== "closed") this.#finish({ code: BROKEN, reason: "no parameters" }, true);
    });
    this.#timer = setTimeout(fail, this.settings.connectTimeout, "no answer in time");
    params.then((/** @type {any} */ given) => settle(() => this.#open(way, given, stream)), fail);
  }

  /**
   * @param {Way} way
   * @param {import("./credentials.js").Texts} params
   * @param {{ isReopened?: boolean, resumes?: boolean }} stream
   */
  #open(way, params, { isReopened = false, resumes = true }) {
    this.#isStale = false;
    this.#shownNames = Object.keys(params);
    const { places, settings } = this;
    const address = places.sockets[this.#address];
    const stream = places.stream(address);
    /** @type {import("./websocket-link.js").LinkHandlers} */
    const handlers = {
      onWelcome: (welcome, isNewer) => (isNewer ? this.#attempt(this.route.repeat()) : this.#welcomed(way, welcome)),
      onFrame: (kind, frame, requestId) => {
        if (kind === "ticket") this.#ticket = frame.ticket;
        this.owner.onFrame(kind, frame, requestId);
      },
      onSettled: () => this.#planReopening(),
      onLate: (since) => this.wake(since),
      onEnd: (ending) => this.#ended(way, ending),
      onError: (error) => this.owner.onError(error),
    };
    if (way === "sse" && places.fetch && stream) {
      const subscriptions = this.subscriptions.list();
      const url = streamUrl(stream, subscriptions, params, resumes);
      const isWanted = /** @param {Subscription} subscription */ (subscription) => this.subscriptions.has(subscription);
      this.#link = new EventStreamLink({ url, subscriptions, fetch: places.fetch, isReopened, resumes, isWanted }, handlers);
    } else if (way !== "sse" && places.WebSocket) {
      const ticket = way === "v4" ? this.#ticket : null;
      const url = socketUrl(address, params, ticket !== null);
      // It counts once.
      const onReached = () => void (this.#ticket = ticket ? null : this.#ticket);
      const isInDoubt = way === "3.1" && this.route.isInDoubt;
      const options = { url, offersVersion4: way === "v4", isInDoubt, ticket, WebSocket: places.WebSocket, settings };
      this.#link = new WebSocketLink(options, { ...handlers, onReached });
    }
  }

  /** @param {Way} way @param {Record<string, any>} welcome */
  #welcomed(way, welcome) {
    const link = this.#link;
    if (!link) return;
    this.route.works(way);
    if (!welcome.is_authorized) {
      this.owner.onFrame("welcome", welcome, undefined);
      if (this.#link === link) this.#finish(endingOfRefusal(welcome), true);
      return;
    }
    this.#ticket = welcome.ticket ?? this.#ticket;
    if (this.state !== "open") this.#openedAt = Date.now();
    this.state = "open";
    this.#isIdle = false;
    this.owner.onOpen(link, welcome);
    // They have changed while the connection was being made.
    if (this.credentials.version !== this.#shownVersion) this.authenticate().catch((error) => this.owner.onError(error));
  }

  /** @param {Way} way @param {Ending} ending */
  #ended(way, ending) {
    const link = this.#link;
    if (!link) return;
    const isNew = this.state !== "open";
    const again = link.transport === "sse" && ending.refusal ? refuse(link, ending.refusal, this.subscriptions) : null;
    if (again && link.transport === "sse") {
      if (this.#link !== link) return; // somebody who was told so has closed it
      this.route.works(way);
      if (this.subscriptions.size === 0) this.#rest();
      else this.#attempt("sse", { isReopened: link.isReopened, resumes: again === "with-positions" });
      return;
    }
    if (isNew && !isServersWord(ending)) {
      const next = this.route.next(way, ending, Date.now());
      if (next) {
        this.#try(next);
        return;
      }
      this.#address = (this.#address + 1) % this.places.sockets.length;
    }
    this.#finish(ending, true);
  }

  /** Ends whatever there is, and settles when to come back. @param {Ending} ending @param {boolean} mayComeBack */
  #finish(ending, mayComeBack) {
    const { code, reason, refusal } = ending;
    this.#unlink();
    this.#isIdle = false;
    const wasOpen = this.state === "open";
    if (wasOpen) {
      const lasted = Date.now() - this.#openedAt >= LASTING * this.settings.reconnectInterval;
      if (lasted) this.#failures = 0;
      this.subscriptions.lose();
    }
    if (code === NOT_AUTHORIZED || code === NOT_ANY_MORE) this.#ticket = null;
    this.#failures += 1;
    const willReconnect = mayComeBack && (comesBack(ending) || (wasOpen && this.#hasOthers(code)));
    const when = hint(ending);
    this.#mustWait = when?.kind === "not-before";
    const isWaking = !when && Date.now() - this.#wokenAt < WAKING_MS;
    this.#wokenAt = -Infinity;
    const delay = isWaking ? 0 : reconnectDelay(this.#failures, when, this.settings);
    if (willReconnect) {
      this.#timer = setTimeout(() => this.connect(), delay);
    } else {
      this.#ticket = null;
      this.#wakeup.stop();
    }
    const state = willReconnect ? "waiting" : "closed";
    this.#setState(state);
    if (refusal) this.owner.onRefused(refusal);
    this.owner.onClose({ code, reason, willReconnect });
    // A handler may have said otherwise meanwhile.
    if (willReconnect && this.state === state) this.owner.onWaiting(delay);
  }

  /**
   * Whether a connection that ended with this code was not authorised any more by credentials that have changed since. Servers
   * that take `authenticate` say so themselves, by another code.
   * @param {number} code
   */
  #hasOthers(code) {
    return code === NOT_AUTHORIZED && (this.credentials.isDynamic || this.credentials.version !== this.#shownVersion);
  }

  #unlink() {
    this.#attempted = null;
    clearTimeout(this.#timer);
    clearTimeout(this.#reopening);
    this.#link?.close();
    this.#link = null;
  }

  /** @param {Exclude<State, "open">} state */
  #setState(state) {
    this.state = state;
    this.owner.onState(state);
  }
}
