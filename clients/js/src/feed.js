import { reconnectDelay } from "./backoff.js";
import { callSafely } from "./emitter.js";
import { warn } from "./warnings.js";

/** @typedef {Record<string, unknown>} Room */
/** @typedef {import("./subscription.js").PublishFrame} PublishFrame */
/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {import("./subscription.js").SubscriptionOptions} SubscriptionOptions */

/**
 * The application's data, with the position of the log that the application asked for before it read them.
 * @typedef {{ position: string | null | undefined }} Snapshot
 */

/**
 * @typedef {object} FeedError
 * @property {string} message One word: `snapshot-failed`, or why the server refused or ended the subscription.
 * @property {string} [detail] For people.
 * @property {unknown} [cause] What the snapshot function threw.
 */

/**
 * @template {Snapshot} S
 * @typedef {object} FeedOptions
 * @property {(request: { signal: AbortSignal | undefined }) => S | Promise<S>} snapshot Fetches a snapshot. The signal aborts
 *   when the feed is closed, and after `timeout`.
 * @property {Room | ((snapshot: S) => Room)} room The room to follow, or a function that takes it from the snapshot.
 * @property {(snapshot: S) => unknown} onSnapshot Gets the first snapshot, and a new one whenever publications may be missing.
 *   It replaces everything the feed has told before.
 * @property {(frame: PublishFrame) => unknown} onPublish Gets everything published after the snapshot, in order.
 * @property {(error: FeedError) => unknown} [onError] The feed has stopped; `refresh()` starts it again.
 * @property {(retry: { error: unknown, delay: number }) => unknown} [onRetry] A snapshot could not be fetched. The next attempt
 *   follows in `delay` milliseconds.
 * @property {(error: unknown) => boolean} [shouldRetry] Whether to fetch again after this error. Always, by default.
 * @property {number} [timeout] Milliseconds that a snapshot may take; 60,000 by default.
 */

/**
 * What a feed needs of its Socket.
 * @typedef {object} FeedSocket
 * @property {(options: SubscriptionOptions) => Subscription} subscribe
 * @property {(subscription: Subscription) => unknown} unsubscribe
 * @property {number} reconnectInterval
 * @property {number} maxReconnectInterval
 */

/**
 * Takes the place of a position that the application does not know. It is no position, so the server answers at once that it
 * cannot recover, and the snapshot is fetched again once the subscription is confirmed.
 */
const UNKNOWN_POSITION = "-";

const TIMEOUT_MS = 60_000;

/** Publications that may wait for a snapshot. */
const HELD_LIMIT = 10_000;

/**
 * A snapshot and everything published after it. `Socket.feed` makes it.
 *
 * Where the server recovers from the snapshot's position, nothing is missing and nothing comes twice: after a gap, the feed
 * subscribes anew from the next snapshot's position. A server without a log, or one of 3.1, cannot do that. There the feed
 * keeps its subscription, holds what is published while it fetches, and tells it after the snapshot, which may know it already.
 *
 * @template {Snapshot} [S=Snapshot]
 */
export class Feed {
  #socket;
  #options;
  #onClose;
  /** @type {Subscription | null} */
  #subscription = null;
  /** Identifies the current subscription to its callbacks, even before `subscribe` returns. @type {object | null} */
  #current = null;
  #isConfirmed = false;
  /** The server has recovered from the snapshot's position. */
  #recovers = false;
  /** The application has the latest snapshot, and gets publications at once. */
  #isLive = false;
  /** Publications that wait for the next snapshot. Without a list they are dropped: the next subscription replays them. */
  /** @type {PublishFrame[] | null} */
  #held = null;
  #isFetching = false;
  #fetchedAt = 0;
  /** The snapshot being fetched is outdated already. */
  #isStale = false;
  #isClosed = false;
  /** Rejects the attempt that is under way. @type {((why: string) => void) | null} */
  #abandon = null;
  /** @type {(() => void) | null} */
  #endPause = null;

  /**
   * @param {FeedSocket} socket
   * @param {FeedOptions<S>} options
   * @param {() => void} onClose
   */
  constructor(socket, options, onClose) {
    this.#socket = socket;
    this.#options = options;
    this.#onClose = onClose;
    this.#fetch();
  }

  /** The room that the feed is subscribed to. @returns {Room | null} */
  get room() {
    return this.#subscription && this.#subscription.room;
  }

  /** Fetches a new snapshot, and follows its room. Starts a feed again that has stopped. */
  refresh() {
    if (this.#isClosed) return;
    this.#isLive = false;
    this.#held = this.#isConfirmed && !this.#recovers ? [] : null;
    if (this.#isFetching) this.#restart();
    else this.#fetch();
  }

  /** Ends the feed for good. */
  close() {
    this.#isClosed = true;
    this.#leave();
    this.#restart();
    this.#onClose();
  }

  /** Ends the pause before the next attempt. @internal */
  retryNow() {
    if (this.#endPause) this.#endPause();
  }

  /**
   * The page is used again, which was left at that time: what was fetched then may hang.
   * @param {number} leftAt
   * @internal
   */
  wake(leftAt) {
    if (this.#fetchedAt <= leftAt) this.#restart();
    else this.retryNow();
  }

  #restart() {
    this.#isStale = true;
    if (this.#abandon) this.#abandon("the snapshot is outdated");
    this.retryNow();
  }

  async #fetch() {
    this.#isFetching = true;
    for (let failures = 1; !this.#isClosed; ) {
      this.#isStale = false;
      this.#fetchedAt = Date.now();
      let snapshot, position, room;
      try {
        snapshot = await this.#request();
        ({ position } = snapshot);
        room = typeof this.#options.room === "function" ? this.#options.room(snapshot) : this.#options.room;
      } catch (error) {
        if (this.#isStale) continue;
        if (callSafely(this.#options.shouldRetry, error) === false) {
          this.#isFetching = false;
          this.#stop({ message: "snapshot-failed", detail: String(error), cause: error });
          return;
        }
        await this.#pause(error, failures);
        failures += 1;
        continue;
      }
      if (this.#isStale) continue;
      this.#isFetching = false;
      this.#show(snapshot, room, position);
      return;
    }
  }

  /** One call of the application's function, with a deadline. @returns {Promise<S>} */
  #request() {
    const { snapshot, timeout = TIMEOUT_MS } = this.#options;
    const abort = typeof AbortController === "undefined" ? null : new AbortController();
    const signal = abort ? abort.signal : undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let deadline;
    const attempt = new Promise((/** @type {(value: S) => void} */ resolve, reject) => {
      this.#abandon = (why) => {
        reject(new Error(why));
        if (abort) abort.abort();
      };
      deadline = setTimeout(this.#abandon, timeout, `no snapshot within ${timeout} ms`);
      Promise.resolve().then(() => snapshot({ signal })).then(resolve, reject);
    });
    const finish = () => {
      clearTimeout(deadline);
      this.#abandon = null;
    };
    attempt.then(finish, finish);
    return attempt;
  }

  /** @param {unknown} error @param {number} failures */
  #pause(error, failures) {
    const delay = reconnectDelay(failures, null, this.#socket);
    const { onRetry } = this.#options;
    if (onRetry) callSafely(onRetry, { error, delay });
    else if (failures === 1) warn("a feed's snapshot could not be fetched; trying again:", error);
    return new Promise((/** @type {(value?: undefined) => void} */ resolve) => {
      const timer = setTimeout(resolve, delay);
      this.#endPause = () => {
        clearTimeout(timer);
        this.#endPause = null;
        resolve();
      };
    });
  }

  /** @param {S} snapshot @param {Room} room @param {Snapshot["position"]} position */
  #show(snapshot, room, position) {
    const held = this.#held;
    this.#held = null;
    callSafely(this.#options.onSnapshot, snapshot);
    if (this.#isClosed || this.#isFetching) return; // the handler has closed or refreshed the feed
    this.#isLive = true;
    if (!held || JSON.stringify(room) !== JSON.stringify(this.room)) {
      this.#follow(room, position);
      return;
    }
    for (const frame of held) this.#published(frame);
  }

  /** @param {Room} room @param {Snapshot["position"]} position */
  #follow(room, position) {
    const before = this.#subscription;
    const current = {};
    this.#current = current;
    this.#isConfirmed = this.#recovers = false;
    const isCurrent = () => this.#current === current;
    const subscription = this.#socket.subscribe({
      room,
      since: position || UNKNOWN_POSITION,
      onPublish: (frame) => {
        if (isCurrent()) this.#published(frame);
      },
      onRecovered: () => {
        if (isCurrent()) this.#isConfirmed = this.#recovers = true;
      },
      onReconnect: () => {
        if (!isCurrent()) return;
        this.#isConfirmed = true;
        this.refresh();
      },
      onError: (error) => {
        if (isCurrent()) this.#ended(error);
      },
    });
    this.#subscription = isCurrent() ? subscription : null;
    // In one turn with the new one: event streams are then opened once.
    if (before) this.#socket.unsubscribe(before);
  }

  /** @param {PublishFrame} frame */
  #published(frame) {
    if (this.#isLive) callSafely(this.#options.onPublish, frame);
    else if (this.#held) this.#held.push(frame);
    if (this.#held && this.#held.length > HELD_LIMIT) this.#held = null;
  }

  /** The server has refused or ended the subscription. @param {FeedError} error */
  #ended(error) {
    this.#subscription = this.#current = null;
    this.#held = null;
    if (!this.#isFetching) this.#stop(error);
    // Otherwise the subscription after the next snapshot shows whether that still holds.
  }

  /** @param {FeedError} error */
  #stop(error) {
    this.#leave();
    if (this.#options.onError) callSafely(this.#options.onError, error);
    else warn(`a feed has stopped: ${error.message}`, error.detail ?? "");
  }

  #leave() {
    const subscription = this.#subscription;
    this.#subscription = this.#current = null;
    this.#isLive = this.#isConfirmed = this.#recovers = false;
    this.#held = null;
    if (subscription) this.#socket.unsubscribe(subscription);
  }
}
