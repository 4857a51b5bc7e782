// Requests of version 4. Pure.

/** @typedef {import("./subscription.js").Subscription} Subscription */

/** More entries than these make a second message. */
const MOST_ENTRIES = 1000;

const ENVELOPE = ['{"type":"subscribe","subscriptions":[', "]}"];
const encoder = new TextEncoder();

/**
 * Messages that subscribe to all of them, none larger than `limitBytes`.
 * @param {Subscription[]} subscriptions
 * @param {number} limitBytes
 * @returns {{ messages: string[], tooLarge: Subscription[] }}
 */
export function subscribeMessages(subscriptions, limitBytes) {
  /** @type {string[]} */
  const messages = [];
  /** @type {Subscription[]} */
  const tooLarge = [];
  /** @type {string[]} */
  let entries = [];
  let bytes = 0;
  const finish = () => {
    if (entries.length > 0) messages.push(ENVELOPE.join(entries.join(",")));
    [entries, bytes] = [[], ENVELOPE.join("").length];
  };
  finish();
  for (const subscription of subscriptions) {
    const { requestId, room, position: since } = subscription;
    const entry = JSON.stringify({ requestId, room, since });
    const size = encoder.encode(entry).length + 1; // and a comma
    if (ENVELOPE.join("").length + size > limitBytes) {
      tooLarge.push(subscription);
      continue;
    }
    if (bytes + size > limitBytes || entries.length === MOST_ENTRIES) finish();
    entries.push(entry);
    bytes += size;
  }
  finish();
  return { messages, tooLarge };
}
