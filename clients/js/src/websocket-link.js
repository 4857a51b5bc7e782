import { BROKEN } from "./endings.js";
import { subscribeMessages } from "./requests.js";

/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {import("./endings.js").Ending} Ending */

/**
 * Whom a link tells what happens on it; nobody any more once it is closed or has ended.
 * @typedef {object} LinkHandlers
 * @property {() => void} [onReached] The other side has accepted the handshake.
 * @property {(frame: Record<string, any>) => void} onWelcome The first frame, which may be a refusal.
 * @property {(kind: string, frame: Record<string, any>, requestId: unknown) => void} onFrame Each other one.
 * @property {() => void} [onSettled] An event stream's subscriptions have all got their replies.
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
  #wasReached = false;
  #hasEnded = false;
  #messageLimitBytes = Infinity;
  /** @type {unknown[]} In 3.1's protocol, the requestIds that wait for their reply, which does not name them. */
  #unanswered = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #deadline;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #pings;

  /**
   * @param {object} options
   * @param {string} options.url
   * @param {boolean} options.offersVersion4
   * @param {string | null} [options.ticket] What to come back with.
   * @param {SocketClass} options.WebSocket
   * @param {LinkSettings} options.settings Read anew whenever they are needed.
   * @param {LinkHandlers} handlers
   */
  constructor({ url, offersVersion4, ticket, WebSocket, settings }, handlers) {
    this.#settings = settings;
    this.#handlers = handlers;
    /** @type {WebSocket} */
    let socket;
    try {
      socket = offersVersion4 ? new WebSocket(url, [SUBPROTOCOL]) : new WebSocket(url);
    } catch (error) {
      // Such as an insecure address on a secure page.
      queueMicrotask(() => this.#break(String(error)));
      return;
    }
    this.#socket = socket;
    socket.onopen = () => {
      if (this.#hasEnded) return;
      this.#wasReached = true;
      this.#handlers.onReached?.();
      if (ticket) this.#write(JSON.stringify({ type: "resume", ticket }));
      this.#expect(FIRST_FRAME_MS, "no first frame");
      this.#pings = setInterval(() => this.#ping(), settings.pingInterval);
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

  /** Ends it without telling anybody here. */
  close() {
    if (this.#hasEnded) return;
    this.#finish();
    this.#socket?.close(1000);
  }

  /** @param {unknown} data */
  #received(data) {
    if (this.#hasEnded || typeof data !== "string") return;
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
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
    if (typeof frame?.is_authorized !== "boolean") {
      this.#break("the first frame is no welcome");
      return;
    }
    this.#isWelcomed = true;
    this.protocol = frame.type === "welcome" ? SUBPROTOCOL : "3.1";
    this.#messageLimitBytes = frame.limits?.message_bytes ?? Infinity;
    this.#handlers.onWelcome(frame);
  }

  /** @param {any} frame */
  #understood(frame) {
    const isReply = this.protocol === "3.1" && frame?.type !== "publish";
    if (isReply) this.#handlers.onFrame("reply", frame, this.#unanswered.shift());
    else this.#handlers.onFrame(frame?.type, frame, frame?.requestId);
  }

  #ping() {
    this.#write("ping");
    this.#deadline ?? this.#expect(this.#settings.pongTimeout, "no answer to a ping");
  }

  /** Breaks the link unless a frame comes in time. @param {number} milliseconds @param {string} reason */
  #expect(milliseconds, reason) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#break(reason), milliseconds);
  }

  /** @param {string} text */
  #write(text) {
    // One that is closing says so by itself in a moment.
    if (this.#socket?.readyState === 1) this.#socket.send(text);
  }

  /** @param {string} reason */
  #break(reason) {
    if (this.#hasEnded) return;
    this.#end({ code: BROKEN, reason });
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
  }
}
