/**
 * @typedef {object} SubscriptionOptions
 * @property {Record<string, unknown>} room
 * @property {(frame: PublishFrame) => unknown} [onPublish] Gets everything that is published to the room, in order.
 * @property {(subscription: Subscription) => unknown} [onReconnect] Something may have been missed: fetch again.
 * @property {(subscription: Subscription) => unknown} [onRecovered] The connection was lost, and nothing with it: what was
 *   missed follows.
 * @property {(error: SubscriptionError) => unknown} [onError] The subscription was refused, or taken away, and is over.
 * @property {string} [since] A position: what was published after it is wanted, too.
 */

/**
 * @typedef {object} PublishFrame
 * @property {"publish"} type
 * @property {any} data What the publisher wrote.
 * @property {string | number} requestId The subscription's.
 * @property {string} [position] Its place in the log of all publications.
 */

/**
 * @typedef {object} SubscriptionError
 * @property {string} message One word: `room-not-found`, `no-longer-allowed`, `by-application`, …
 * @property {string} [detail] For people.
 */

/** A room that a Socket listens to. `Socket.subscribe` makes it. */
export class Subscription {
  /**
   * @param {SubscriptionOptions} options
   * @param {string | number} requestId
   */
  constructor({ room, onPublish, onReconnect, onRecovered, onError, since }, requestId) {
    this.room = room;
    this.requestId = requestId;
    this.onPublish = onPublish;
    this.onReconnect = onReconnect;
    this.onRecovered = onRecovered;
    this.onError = onError;
    /**
     * Of the last frame of this subscription; what is published after it has not come yet.
     * @type {string | undefined}
     */
    this.position = since;
  }
}
