import { isSameOrigin } from "./addresses.js";
import { BROKEN, NOT_AUTHORIZED, TRY_LATER } from "./endings.js";
import { EventStreamParser } from "./event-stream-parser.js";
import { FIRST_FRAME_MS, SUBPROTOCOL } from "./websocket-link.js";

/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {import("./endings.js").Ending} Ending */

/** Signs of life that may be missing before the stream is taken for broken. */
const MISSED_PINGS = 3;

/** One event stream for some subscriptions. Its requestIds are their places; those that it tells are their own. */
export class EventStreamLink {
  /** @type {"sse"} */
  transport = "sse";
  /** @type {"high-templar.v4"} */
  protocol = SUBPROTOCOL;
  #handlers;
  #abort = new AbortController();
  #parser = new EventStreamParser();
  #isWelcomed = false;
  #unanswered;
  #hasEnded = false;
  #silenceMs = FIRST_FRAME_MS;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #deadline;

  /**
   * @param {object} options
   * @param {string} options.url With the rooms of `subscriptions`, in their order.
   * @param {Subscription[]} options.subscriptions
   * @param {typeof fetch} options.fetch
   * @param {boolean} options.isReopened It takes the place of another one, for other subscriptions.
   * @param {boolean} options.resumes It goes on from their positions.
   * @param {(subscription: Subscription) => boolean} options.isWanted Still; of others nothing is told.
   * @param {import("./websocket-link.js").LinkHandlers} handlers
   */
  constructor({ url, subscriptions, fetch, isReopened, resumes, isWanted }, handlers) {
    this.url = url;
    this.subscriptions = subscriptions;
    this.isReopened = isReopened;
    this.resumes = resumes;
    this.isWanted = isWanted;
    this.#unanswered = subscriptions.length;
    this.#handlers = handlers;
    this.#run(fetch).catch((error) => {
      const stream = this.#isWelcomed || isSameOrigin(url) ? "away" : "unreadable";
      this.#end({ code: BROKEN, reason: String(error), stream });
    });
  }

  /** All its subscriptions have got their replies. */
  get isSettled() {
    return this.#isWelcomed && this.#unanswered === 0;
  }

  /** Ends it without telling anybody here. */
  close() {
    this.#finish();
  }

  /** @param {typeof fetch} fetch */
  async #run(fetch) {
    this.#expectLife();
    const response = await fetch(this.url, {
      credentials: "include",
      cache: "no-store",
      headers: { Accept: "text/event-stream" },
      signal: this.#abort.signal,
    });
    const type = response.headers.get("Content-Type") ?? "";
    if (!response.ok || !response.body || !type.startsWith("text/event-stream")) {
      this.#end(await endingOfAnswer(response));
      return;
    }
    const reader = response.body.getReader();
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for (;;) {
      const { done, value } = await reader.read();
      if (this.#hasEnded) return;
      if (done) break;
      this.#expectLife();
      for (const event of this.#parser.push(decoder.decode(value, { stream: true }))) this.#received(event);
    }
    this.#end({ code: BROKEN, reason: "the stream has ended", stream: "away" });
  }

  /** @param {import("./event-stream-parser.js").StreamEvent} event */
  #received({ type, data }) {
    if (this.#hasEnded) return;
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      this.#handlers.onError(new Error("a frame is no JSON"));
      return;
    }
    if (type === "close") {
      this.#end({ code: Number(frame?.code), reason: String(frame?.reason ?? "") });
    } else if (this.#isWelcomed) {
      this.#understood(frame);
    } else if (frame?.type === "welcome") {
      this.#isWelcomed = true;
      if (frame.ping_interval > 0) this.#silenceMs = MISSED_PINGS * frame.ping_interval * 1000;
      this.#expectLife();
      this.#handlers.onWelcome(frame);
    } else {
      this.#end({ code: BROKEN, reason: "the first frame is no welcome", stream: "away" });
    }
  }

  /** @param {any} frame */
  #understood(frame) {
    const subscription = frame?.requestId === undefined ? undefined : this.subscriptions[Number(frame.requestId)];
    if (!subscription) {
      this.#handlers.onFrame(frame?.type, frame, undefined);
      return;
    }
    if (frame.type === "reply") this.#unanswered -= 1;
    // Another one may have its requestId by now.
    if (this.isWanted(subscription)) {
      this.#handlers.onFrame(frame.type, { ...frame, requestId: subscription.requestId }, subscription.requestId);
    }
    if (frame.type === "reply" && this.isSettled && !this.#hasEnded) this.#handlers.onSettled?.();
  }

  #expectLife() {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#end({ code: BROKEN, reason: "silent", stream: "away" }), this.#silenceMs);
  }

  /** @param {Ending} ending */
  #end(ending) {
    if (this.#hasEnded) return;
    this.#finish();
    this.#handlers.onEnd({ ...ending, wasReached: this.#isWelcomed });
  }

  #finish() {
    this.#hasEnded = true;
    clearTimeout(this.#deadline);
    this.#abort.abort();
  }
}

/**
 * What an answer means that is no stream.
 * @param {Response} response
 * @returns {Promise<Ending>}
 */
async function endingOfAnswer(response) {
  const { status } = response;
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  const ending = { code: BROKEN, reason: `status ${status}`, retryAfter: seconds >= 0 ? seconds : undefined };
  if (response.ok || status === 404 || status === 405) return { ...ending, stream: "absent" };
  if (status === 414) return { ...ending, code: TRY_LATER, refusal: { status, message: "url-too-long" } };
  const answer = await response.json().catch(() => null);
  // Anything else is of a proxy in front, whose troubles pass.
  if (answer?.code !== "error") return { ...ending, stream: "away" };
  const { message, detail, requestId } = answer;
  const limit = answer.limit > 0 ? Number(answer.limit) : undefined;
  const code = status === 401 || message === "origin-not-allowed" ? NOT_AUTHORIZED : TRY_LATER;
  return { ...ending, code, reason: message, refusal: { status, message, detail, requestId, limit } };
}
