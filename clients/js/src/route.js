// Which way to the server is tried next. Pure.

/** @typedef {"v4" | "sse" | "3.1"} Way A socket of version 4, an event stream, or a socket of 3.1's protocol. */

/** So often in a row the way that has worked last is tried alone. */
const FAITHFUL = 3;
/** Where event streams work, sockets are not tried again before this time is over: a stuck one costs seconds, each time. */
const SOCKETS_AGAIN_MS = 60_000;

/**
 * The ways to the server. A round tries one after the other, until one works; between rounds there is a pause.
 *
 * A server of 3.1 shows in that a socket of version 4 fails (browsers want the offered subprotocol back), there is no event
 * stream, and a plain socket works. As the first may have failed in passing, it is then tried once more: a server that speaks
 * version 4 is not to be spoken to in 3.1's protocol.
 */
export class Route {
  /** @type {Way | null} The way that has worked last. */
  #known = null;
  #failures = 0;
  #socketFailedAt = -Infinity;
  #isAlone = false;
  /** @type {"no" | "asked" | "yes"} Whether the server is known to speak nothing but 3.1's. */
  #isOld = "no";

  /** @param {{ hasSocket: boolean, hasStream: boolean }} options */
  constructor({ hasSocket, hasStream }) {
    this.hasSocket = hasSocket;
    this.hasStream = hasStream;
  }

  /** Whether event streams are what has worked last. */
  get isByStream() {
    return this.#known === "sse";
  }

  /**
   * The first way of a round.
   * @param {number} now Milliseconds.
   * @param {boolean} hasRooms Without rooms there can be no event stream.
   * @returns {Way}
   */
  first(now, hasRooms) {
    this.#isOld = "no";
    const known = this.#known;
    if (!this.hasSocket) return "sse";
    const isStream = known === "sse";
    this.#isAlone = known !== null && this.#failures < FAITHFUL;
    if (isStream && (!hasRooms || now - this.#socketFailedAt >= SOCKETS_AGAIN_MS)) return "v4";
    if (known !== "3.1" || !this.#isAlone) return this.#isAlone && known ? known : "v4";
    this.#isOld = "yes";
    return known;
  }

  /**
   * The way after `way`, which has failed; none if it is time for a pause.
   * @param {Way} way
   * @param {import("./endings.js").Ending} ending
   * @param {number} now
   * @returns {Way | null}
   */
  next(way, ending, now) {
    const next = this.#next(way, ending, now);
    if (!next) this.#failures += 1;
    return next;
  }

  /** @param {Way} way @param {import("./endings.js").Ending} ending @param {number} now @returns {Way | null} */
  #next(way, { wasReached, stream }, now) {
    if (way === "v4") {
      this.#socketFailedAt = now;
      if (this.#isOld === "asked") {
        this.#isOld = wasReached ? "no" : "yes";
        return wasReached ? null : "3.1";
      }
      if (this.#isAlone && this.#known !== "sse") return null;
      if (this.hasStream) return "sse";
      return wasReached ? null : "3.1";
    }
    if (way === "sse" && this.hasSocket && !this.#isAlone) return stream === "away" ? null : "3.1";
    return null;
  }

  /**
   * `way` has worked. Whether it is to be used: of 3.1's protocol, only when version 4 has been tried once more.
   * @param {Way} way
   */
  works(way) {
    if (way === "3.1" && this.#isOld === "no") {
      this.#isOld = "asked";
      return false;
    }
    this.#known = way;
    this.#failures = 0;
    return true;
  }
}
