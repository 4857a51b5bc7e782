/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {import("./subscriptions.js").Subscriptions} Subscriptions */

/** Of an address that is too long, this much may do. */
const SHORTER = 0.75;

/**
 * Takes from the subscriptions what the server does not want in one event stream. False if that is not what it refused.
 * @param {{ url: string, subscriptions: Subscription[] }} stream As it was asked for.
 * @param {import("./endings.js").Refusal} refusal
 * @param {Subscriptions} subscriptions
 */
export function refuse({ url, subscriptions: wanted }, refusal, subscriptions) {
  const { message } = refusal;
  if (message === "no-room") return wanted.length === 0;
  if (wanted.length === 0) return false;
  if (message === "room-not-found") {
    const refused = wanted[Number(refusal.requestId)];
    subscriptions.fail(refused, refusal);
    return refused !== undefined;
  }
  if (message === "too-many-subscriptions") {
    subscriptions.fail(wanted[wanted.length - 1], refusal);
    return true;
  }
  if (message === "url-too-long") {
    for (const subscription of newest(wanted, url.length * (1 - SHORTER))) subscriptions.fail(subscription, refusal);
    return true;
  }
  return false;
}

/** The newest ones, which take at least so many letters of the address. @param {Subscription[]} wanted @param {number} letters */
function newest(wanted, letters) {
  const chosen = [];
  for (let i = wanted.length - 1; i >= 0 && letters > 0; i -= 1) {
    const { room, position } = wanted[i];
    chosen.push(wanted[i]);
    letters -= encodeURIComponent(JSON.stringify(room) + (position ?? "")).length;
  }
  return chosen;
}
