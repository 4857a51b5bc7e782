import { callSafely } from "./emitter.js";
import { warn } from "./warnings.js";

/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {Record<string, any>} Frame */

/**
 * What is known of one subscription.
 * @typedef {object} Entry
 * @property {boolean} isLive It has been confirmed.
 * @property {boolean} mustTell At its next reply it is to be told whether anything was missed.
 */

/** All subscriptions of a Socket, and what is published to them; they outlive connections. */
export class Subscriptions {
  /** @type {Map<Subscription, Entry>} */
  #entries = new Map();
  /** @type {Map<unknown, Subscription>} */
  #byId = new Map();
  /** A connection was lost, and there is no other one yet. */
  #isLost = false;
  #hasWarnedOfGaps = false;

  get size() {
    return this.#entries.size;
  }

  /** In the order in which they were made. */
  list() {
    return [...this.#entries.keys()];
  }

  /** @param {unknown} requestId */
  get(requestId) {
    return this.#byId.get(requestId);
  }

  /** @param {Subscription} subscription */
  has(subscription) {
    return this.#entries.has(subscription);
  }

  /** Whether it has been confirmed, be it by an earlier connection. @param {Subscription} subscription */
  isLive(subscription) {
    return this.#entries.get(subscription)?.isLive ?? false;
  }

  /** @param {Subscription} subscription */
  add(subscription) {
    this.#entries.set(subscription, { isLive: false, mustTell: this.#isLost || subscription.position !== undefined });
    this.#byId.set(subscription.requestId, subscription);
  }

  /** Whether it was there. @param {Subscription} subscription */
  delete(subscription) {
    if (!this.#entries.delete(subscription)) return false;
    this.#byId.delete(subscription.requestId);
    return true;
  }

  /** Ends a subscription that was refused or taken away. @param {Subscription | undefined} subscription @param {Frame} why */
  fail(subscription, { message, detail }) {
    if (!subscription || !this.delete(subscription)) return;
    if (!subscription.onError) warn(`the subscription to ${JSON.stringify(subscription.room)} is over: ${message}`, detail ?? "");
    callSafely(subscription.onError, detail === undefined ? { message } : { message, detail });
  }

  /** The connection was lost. */
  lose() {
    this.#isLost = true;
    for (const entry of this.#entries.values()) entry.mustTell = true;
  }

  /** There is a connection again. */
  find() {
    this.#isLost = false;
  }

  /** @param {unknown} requestId @param {Frame} frame */
  published(requestId, frame) {
    const subscription = this.#byId.get(requestId);
    if (!subscription) return;
    subscription.position = frame.position;
    callSafely(subscription.onPublish, /** @type {any} */ (frame));
  }

  /**
   * @param {unknown} requestId
   * @param {Frame} frame
   */
  replied(requestId, frame) {
    const subscription = this.#byId.get(requestId);
    const entry = subscription && this.#entries.get(subscription);
    if (!subscription || !entry) return;
    if (frame.code === "error") {
      this.fail(subscription, frame);
      return;
    }
    const { isLive, mustTell } = entry;
    subscription.position = frame.position;
    entry.isLive = true;
    entry.mustTell = false;
    if (frame.recovered === true) {
      // Who was live and need not be told has been moved to another stream, and has not been away.
      if (mustTell) callSafely(subscription.onRecovered, subscription);
    } else if (isLive || mustTell) {
      this.#tellGap(subscription);
    }
  }

  /** @param {Subscription} subscription */
  #tellGap(subscription) {
    if (!subscription.onReconnect && !this.#hasWarnedOfGaps) {
      this.#hasWarnedOfGaps = true;
      warn(`publications to ${JSON.stringify(subscription.room)} may be missing, and the subscription has no onReconnect`);
    }
    callSafely(subscription.onReconnect, subscription);
  }

  /** Triggers may have been missed. @param {Frame} frame */
  resync(frame) {
    for (const [subscription, { isLive }] of [...this.#entries]) {
      if (!isLive) continue;
      subscription.position = frame.position;
      this.#tellGap(subscription);
    }
  }
}
