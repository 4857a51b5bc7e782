// How connections end, and what follows from it. Pure.

/**
 * @typedef {object} Refusal What the server refused the connection with.
 * @property {string} message One word: `not-authorized`, `try-later`, `too-many-connections`, …
 * @property {string} [detail] For people.
 * @property {number} [status] The HTTP status, where it was an answer to a request.
 * @property {string} [requestId] Which of the rooms it is about, by its place.
 * @property {number} [limit] How many rooms one event stream may have.
 */

/**
 * @typedef {object} Ending How a connection, or an attempt at one, has ended.
 * @property {number} code As in a close frame; 1006 where there was none.
 * @property {string} reason
 * @property {boolean} [wasReached] The other side has accepted the handshake.
 * @property {boolean} [isSilent] There was no answer in time.
 * @property {"away" | "absent" | "unreadable"} [stream] Why there is no event stream: nobody can answer now; there is no such
 *   path; the answer, if there was one, is not for this page.
 * @property {Refusal} [refusal]
 * @property {number} [retryAfter] Seconds.
 */

export const NORMAL = 1000;
export const GOING_AWAY = 1001;
export const BROKEN = 1006;
export const TRY_LATER = 1013;
export const NOT_AUTHORIZED = 3500;
/** A connection that had been authorised, and may be again with newer credentials. */
export const NOT_ANY_MORE = 3502;

/** Codes after which there is no use in coming back: broke the protocol, message too big, not authorised, disconnected. */
const FINAL = [1008, 1009, NOT_AUTHORIZED, 3501];

/**
 * Whether to connect again after that.
 * @param {Ending} ending
 */
export function comesBack({ code }) {
  return !FINAL.includes(code);
}

/**
 * Whether it was the server that ended it, and not the way to it that failed.
 * @param {Ending} ending
 */
export function isServersWord({ code, refusal }) {
  return refusal !== undefined || code === GOING_AWAY || code >= 1008;
}

/**
 * What the ending says about when to come back.
 * @param {Ending} ending
 * @returns {import("./backoff.js").Hint | null}
 */
export function hint({ code, reason, retryAfter }) {
  const seconds = retryAfter ?? Number(/^retry_after=(\d+(?:\.\d+)?)$/.exec(reason)?.[1] ?? NaN);
  if (!(seconds >= 0)) return null;
  return { kind: code === GOING_AWAY ? "within" : "not-before", seconds };
}

/**
 * The ending that a first frame means which lets nobody in.
 * @param {Record<string, any>} frame
 * @returns {Ending}
 */
export function endingOfRefusal(frame) {
  // In 3.1's protocol that may as well be because the API could not be asked.
  if (frame.type !== "welcome") return { code: NORMAL, reason: "", refusal: { message: "not-authorized" } };
  const { message, retry_after: retryAfter } = frame;
  const code = message === "not-authorized" ? NOT_AUTHORIZED : TRY_LATER;
  return { code, reason: String(message), retryAfter, refusal: { message } };
}
