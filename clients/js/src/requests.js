// Requests of version 4. Pure.

/** @typedef {import("./subscription.js").Subscription} Subscription */

/** More entries than these make a second message. */
const MOST_ENTRIES = 1000;

const ENVELOPE = ['{"type":"subscribe","subscriptions":[', "]}"];

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
    const size = utf8Length(entry) + 1; // and a comma
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

/**
 * Bytes of a text as UTF-8. (Neither jsdom nor older browsers have `TextEncoder`.)
 * @param {string} text
 */
export function utf8Length(text) {
  let bytes = text.length;
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit >= 0x80) bytes += 1;
    // Each half of a surrogate pair is two of its four bytes.
    if (unit >= 0x800 && (unit < 0xd800 || unit > 0xdfff)) bytes += 1;
  }
  return bytes;
}
