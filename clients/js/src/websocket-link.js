import { BROKEN } from "./endings.js";
import { subscribeMessages } from "./requests.js";
import { AWAY_MS } from "./wakeup.js";

/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {import("./endings.js").Ending} Ending */

/**
 * Whom a link tells what happens on it; nobody any more once it is closed or has ended.
 * @typedef {object} LinkHandlers
 * @property {() => void} [onReached] The other side has accepted the handshake.
 * @property {(frame: Record<string, any>, isNewer?: boolean) => void} onWelcome The first frame, which may be a refusal; and
 *   whether the server speaks version 4, though not on this link.
 * @property {(kind: string, frame: Record<string, any>, requestId: unknown) => void} onFrame Each other one.
 * @property {() => void} [onSettled] An event stream's subscriptions have all got their replies.
 * @property {(since: number) => void} [onLate] Timers have been late: the process has slept at some time since then.
 * @property {(ending: Ending) => void} onEnd
 * @property {(error: Error) => void} onError Something went wrong without ending the link.
 */

/**
 * What a link needs to know of how the application wants it.
 * @typedef {object} LinkSettings
 * @property {number} pingInterval
 * @property {number} pongTimeout
 * @property {number} connectTimeout
 */

/** A WebSocket as browsers have it. @typedef {{ new (url: string, protocols?: string[]): any }} SocketClass */

export const SUBPROTOCOL = "high-templar.v4";
export const FIRST_FRAME_MS = 30_000;

/** A page that is used again is to be current within a second, so a probe may take this long and some round trips. */
const PROBE_MS = 300;
const PROBE_ROUND_TRIPS = 3;

/** One WebSocket, in version 4 or in 3.1's protocol: whichever its first frame is of. */
export class WebSocketLink {
  /** @type {"websocket"} */
  transport = "websocket";
  /** @type {"high-templar.v4" | "3.1"} */
  protocol = SUBPROTOCOL;
  /** @type {WebSocket | undefined} */
  #socket;
  #settings;
  #handlers;
  #isWelcomed = false;
  #isInDoubt;
  /** @type {Record<string, any> | null} The first frame, until it is known what the server speaks. */
  #welcome = null;
  #wasReached = false;
  #hasEnded = false;
  #messageLimitBytes = Infinity;
  /** @type {unknown[]} In 3.1's protocol, the requestIds that wait for their reply, which does not name them. */
  #unanswered = [];
  /** @type {Map<unknown, (reply: Record<string, any> | null) => void>} What waits for a reply, by requestId. */
  #asked = new Map();
  #lastId = 0;
  /** Pings without a pong. */
  #pending = 0;
  #pingedAt = 0;
  #roundTripMs = 0;
  /** The silence after which a probed link is broken; 0 unless it is probed. */
  #probeMs = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #deadline;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #pings;

  /**
   * @param {object} options
   * @param {string} options.url
   * @param {boolean} options.offersVersion4
   * @param {boolean} [options.isInDoubt] Finds out whether a server that welcomes in 3.1's protocol speaks version 4 as well.
   * @param {string | null} [options.ticket] What to come back with.
   * @param {SocketClass} options.WebSocket
   * @param {LinkSettings} options.settings Read anew whenever they are needed.
   * @param {LinkHandlers} handlers
   */
  constructor({ url, offersVersion4, isInDoubt = false, ticket, WebSocket, settings }, handlers) {
    this.#isInDoubt = isInDoubt;
    this.#settings = settings;
    this.#handlers = handlers;
    /** @type {WebSocket} */
    let socket;
    try {
      socket = offersVersion4 ? new WebSocket(url, [SUBPROTOCOL]) : new WebSocket(url);
    } catch (error) {
      // Such as an insecure address on a secure page.
      Promise.resolve().then(() => this.#break(String(error)));
      return;
    }
    this.#socket = socket;
    socket.onopen = () => {
      if (this.#hasEnded) return;
      this.#wasReached = true;
      this.#handlers.onReached?.();
      if (ticket) this.#write(JSON.stringify({ type: "resume", ticket }));
      this.#expect(FIRST_FRAME_MS, "no first frame");
      this.#pingedAt = Date.now();
      this.#pings = setInterval(() => this.#keepAlive(), settings.pingInterval);
    };
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, reason }) => this.#end({ code, reason });
    socket.onerror = () => {}; // a close event follows, which says more
    this.#expect(settings.connectTimeout, "no answer to the handshake");
  }

  /** @param {Subscription[]} subscriptions @returns {Subscription[]} Those that are larger than a message may be. */
  subscribe(subscriptions) {
    if (this.protocol === "3.1") {
      for (const { room, requestId } of subscriptions) this.request({ type: "subscribe", room, requestId });
      return [];
    }
    const { messages, tooLarge } = subscribeMessages(subscriptions, this.#messageLimitBytes);
    for (const message of messages) this.#write(message);
    return tooLarge;
  }

  /** @param {Subscription} subscription */
  unsubscribe({ requestId }) {
    this.request({ type: "unsubscribe", requestId });
  }

  /** @param {Record<string, any>} message */
  request(message) {
    if (this.protocol === "3.1") this.#unanswered.push(message.type === "subscribe" ? message.requestId : undefined);
    this.#write(JSON.stringify(message));
  }

  /**
   * Sends a request of version 4 outside of the subscriptions.
   * @param {Record<string, any>} message
   * @returns {Promise<Record<string, any> | null>} The reply, or null if the link has ended before it came.
   */
  ask(message) {
    const requestId = `${message.type}-${(this.#lastId += 1)}`;
    return new Promise((resolve) => {
      this.#asked.set(requestId, resolve);
      this.request({ type: message.type, requestId, params: message.params });
    });
  }

  /** Finds out soon whether the link still works. */
  probe() {
    this.#probeMs = Math.min(this.#settings.pongTimeout, PROBE_MS + PROBE_ROUND_TRIPS * this.#roundTripMs);
    this.#expect(this.#probeMs, "no answer to a ping");
    this.#ping();
  }

  /** Ends it without telling anybody here. */
  close() {
    if (this.#hasEnded) return;
    this.#finish();
    this.#socket?.close(1000);
  }

  /** @param {unknown} data */
  #received(data) {
    if (this.#hasEnded || typeof data !== "string") return;
    if (data === "pong") this.#ponged();
    // What was on its way before the link was lost proves nothing, so that a probe goes on until the pong.
    if (this.#probeMs > 0) this.#expect(this.#probeMs, "no answer to a ping");
    else this.#forget();
    if (data === "pong") return;
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      this.#handlers.onError(new Error("a frame is no JSON"));
      return;
    }
    if (this.#isWelcomed) this.#understood(frame);
    else this.#welcomed(frame);
  }

  /** @param {any} frame */
  #welcomed(frame) {
    if (this.#welcome) {
      this.#isWelcomed = true;
      // Of the status frame. Servers of 3.1 count no messages; this one has just counted one.
      this.#handlers.onWelcome(this.#welcome, frame?.ws_messages_received > 0);
      return;
    }
    if (typeof frame?.is_authorized !== "boolean") {
      this.#break("the first frame is no welcome");
      return;
    }
    this.protocol = frame.type === "welcome" ? SUBPROTOCOL : "3.1";
    if (this.#isInDoubt && this.protocol === "3.1" && frame.is_authorized) {
      this.#welcome = frame;
      this.#write('{"type":"status"}');
      this.#expect(FIRST_FRAME_MS, "no status");
      return;
    }
    this.#isWelcomed = true;
    this.#messageLimitBytes = frame.limits?.message_bytes ?? Infinity;
    this.#handlers.onWelcome(frame);
  }

  /** @param {any} frame */
  #understood(frame) {
    const isReply = this.protocol === "3.1" && frame?.type !== "publish";
    const asked = this.#asked.get(frame?.requestId);
    if (asked && frame.type === "reply") {
      this.#asked.delete(frame.requestId);
      asked(frame);
    }
    if (isReply) this.#handlers.onFrame("reply", frame, this.#unanswered.shift());
    else this.#handlers.onFrame(frame?.type, frame, frame?.requestId);
  }

  #keepAlive() {
    if (this.#probeMs > 0) return;
    this.#pending = 0; // pongs that are still missing will not come
    const late = Date.now() - this.#pingedAt - this.#settings.pingInterval;
    // The process has slept, or its timers have, and there is no event that tells so everywhere.
    if (late >= AWAY_MS) this.#handlers.onLate?.(this.#pingedAt);
    else this.#ping();
  }

  #ping() {
    this.#pending += 1;
    this.#pingedAt = Date.now();
    this.#write("ping");
    if (this.#deadline === undefined) this.#expect(this.#settings.pongTimeout, "no answer to a ping");
  }

  #ponged() {
    this.#pending -= 1;
    if (this.#pending > 0) return;
    this.#probeMs = 0;
    // Neither a sleep nor another clock in between counts.
    this.#roundTripMs = Math.min(Math.max(0, Date.now() - this.#pingedAt), PROBE_MS);
  }

  /** Breaks the link unless a frame comes in time. @param {number} milliseconds @param {string} reason */
  #expect(milliseconds, reason) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#break(reason), milliseconds);
  }

  #forget() {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
  }

  /** @param {string} text */
  #write(text) {
    // One that is closing says so by itself in a moment.
    if (this.#socket?.readyState === 1) this.#socket.send(text);
  }

  /** @param {string} reason */
  #break(reason) {
    if (this.#hasEnded) return;
    this.#end({ code: BROKEN, reason, isSilent: !this.#wasReached && this.#socket !== undefined });
    this.#socket?.close();
  }

  /** @param {Ending} ending */
  #end(ending) {
    if (this.#hasEnded) return;
    this.#finish();
    this.#handlers.onEnd({ ...ending, wasReached: this.#wasReached });
  }

  #finish() {
    this.#hasEnded = true;
    clearTimeout(this.#deadline);
    clearInterval(this.#pings);
    for (const answer of this.#asked.values()) answer(null);
  }
}
