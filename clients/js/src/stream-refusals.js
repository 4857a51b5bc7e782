/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {import("./subscriptions.js").Subscriptions} Subscriptions */

/** Of an address that is too long, this much may do. */
const SHORTER = 0.75;

/**
 * Takes from the subscriptions what the server does not want in one event stream.
 * @param {{ url: string, subscriptions: Subscription[], resumes: boolean }} stream As it was asked for.
 * @param {import("./endings.js").Refusal} refusal
 * @param {Subscriptions} subscriptions
 * @returns {"with-positions" | "without-positions" | null} How to ask again; null if that is not what was refused.
 */
export function refuse({ url, subscriptions: wanted, resumes }, refusal, subscriptions) {
  const { message } = refusal;
  if (message === "no-room") return wanted.length === 0 ? "with-positions" : null;
  if (wanted.length === 0) return null;
  if (message === "room-not-found") {
    const refused = wanted[Number(refusal.requestId)];
    subscriptions.fail(refused, refusal);
    return refused ? "with-positions" : null;
  }
  if (message === "too-many-subscriptions") {
    // A server that does not say how many it takes is asked again with one less.
    const { limit = wanted.length - 1 } = refusal;
    for (const subscription of wanted.slice(Math.min(limit, wanted.length - 1))) subscriptions.fail(subscription, refusal);
    return "with-positions";
  }
  if (message === "url-too-long") {
    // To miss something, and be told so, is better than to be over.
    if (resumes && wanted.some(({ position }) => position !== undefined)) return "without-positions";
    const added = wanted.filter((subscription) => !subscriptions.isLive(subscription));
    const chosen = newest(added.length > 0 ? added : wanted, url.length * (1 - SHORTER));
    for (const subscription of chosen) subscriptions.fail(subscription, refusal);
    return "with-positions";
  }
  return null;
}

/** The newest ones, which take at least so many letters of the address. @param {Subscription[]} from @param {number} letters */
function newest(from, letters) {
  const chosen = [];
  for (let i = from.length - 1; i >= 0 && letters > 0; i -= 1) {
    chosen.push(from[i]);
    letters -= encodeURIComponent(JSON.stringify(from[i].room)).length;
  }
  return chosen;
}
