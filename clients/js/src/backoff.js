// How long to wait before coming back. Pure.

/**
 * What the server said about when to come back.
 * @typedef {object} Hint
 * @property {"within" | "not-before"} kind A random part of that time, or not before it is over.
 * @property {number} seconds
 */

/** The longest time that a timer takes. */
const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * Milliseconds until the next attempt.
 *
 * @param {number} failures Connections in a row that failed or did not last, this one included: at least 1.
 * @param {Hint | null} hint
 * @param {{ reconnectInterval: number, maxReconnectInterval: number }} settings
 * @param {() => number} [random] Gives numbers from 0 to below 1.
 */
export function reconnectDelay(failures, hint, { reconnectInterval, maxReconnectInterval }, random = Math.random) {
  const delay = random() * Math.min(maxReconnectInterval, reconnectInterval * 2 ** (failures - 1));
  if (!hint) return delay;
  const hinted = hint.seconds * 1000;
  if (hint.kind === "not-before") return Math.min(hinted + random() * reconnectInterval, LONGEST_TIMER);
  // A server that sends everybody away again and again is not to be stormed by its own hint.
  return Math.min(failures > 1 ? Math.max(random() * hinted, delay) : random() * hinted, LONGEST_TIMER);
}
