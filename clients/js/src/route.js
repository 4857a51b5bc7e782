// Which way to the server is tried next. Pure.

/** @typedef {"v4" | "sse" | "3.1"} Way A socket of version 4, an event stream, or a socket of 3.1's protocol. */

/** Failed rounds after which other ways than the last working one are tried again. */
const FAITHFUL = 3;
/** Where event streams work, sockets are not tried again before this time is over: a stuck one costs seconds, each time. */
const SOCKETS_AGAIN_MS = 60_000;
/** Rounds in which version 4 failed and a plain socket worked, after which the server is taken for one of 3.1 … */
const SURELY_OLD = 2;
/** … for so long since version 4 was last tried: servers are replaced while pages stay open. */
const VERSION_4_AGAIN_MS = 600_000;

/**
 * The ways to the server. A round tries one after the other, until one works; between rounds there is a pause.
 *
 * Browsers refuse a socket of version 4 from a server of 3.1, which does not select the offered subprotocol. They do not tell
 * why, so a plain socket is tried next. If it reaches a server of version 4 after all, the first one has failed in passing, or
 * has met the other kind of server behind a balancer that has both: version 4 is then tried once more, and after that the
 * plain socket is used, whatever it reaches. Rounds go on beginning with version 4 until it has failed in two of them.
 */
export class Route {
  /** @type {Way | null} The way that has worked last. */
  #known = null;
  #failures = 0;
  #version4FailedAt = -Infinity;
  /** This round tries no other ways than the known one, and a plain socket in place of one of version 4. */
  #isAlone = false;
  /** @type {Way[]} Ways that have failed in this round. */
  #failed = [];
  /** A plain socket has reached a server of version 4 in this round. */
  #isRepeated = false;
  #timesOld = 0;

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
    this.#failed = [];
    this.#isRepeated = false;
    if (!this.hasSocket) return "sse";
    this.#isAlone = this.#known !== null && this.#failures < FAITHFUL;
    const silence = now - this.#version4FailedAt;
    if (this.#isAlone && this.#known === "sse" && hasRooms && silence < SOCKETS_AGAIN_MS) return "sse";
    const isOld = this.#timesOld >= SURELY_OLD && silence < VERSION_4_AGAIN_MS;
    return this.#isAlone && this.#known === "3.1" && isOld ? "3.1" : "v4";
  }

  /**
   * The way after `way`, which has failed; none if it is time for a pause.
   * @param {Way} way
   * @param {import("./endings.js").Ending} ending
   * @param {number} now
   * @returns {Way | null}
   */
  next(way, ending, now) {
    this.#failed.push(way);
    if (way === "v4") this.#version4FailedAt = now;
    const next = this.#next(way, ending);
    if (next && !this.#failed.includes(next)) return next;
    this.#failures += 1;
    return null;
  }

  /** @param {Way} way @param {import("./endings.js").Ending} ending @returns {Way | null} */
  #next(way, { wasReached, isSilent, stream }) {
    const mayBeOld = way === "v4" && !wasReached;
    // What does not even answer would not answer a plain socket either, in as many seconds.
    if (mayBeOld && !isSilent) return "3.1";
    if (this.#isAlone && (way === "sse" || this.#known !== "sse")) return null;
    if (way === "sse") return this.hasSocket && stream !== "away" ? "3.1" : null;
    if (this.hasStream) return "sse";
    return mayBeOld ? "3.1" : null;
  }

  /** Whether a plain socket is to find out if the server speaks version 4 after all. */
  get isInDoubt() {
    return this.#failed.includes("v4") && !this.#isRepeated;
  }

  /** The server does. Version 4 is tried once more. @returns {Way} */
  repeat() {
    this.#isRepeated = true;
    return "v4";
  }

  /** `way` has worked. @param {Way} way */
  works(way) {
    if (way === "v4") this.#timesOld = 0;
    else if (way === "3.1" && this.#failed.includes("v4")) this.#timesOld += 1;
    this.#known = way;
    this.#failures = 0;
  }
}
