import { root } from "./root.js";

/** A page that has been away for less than this is not suspected of having lost its connection. */
export const AWAY_MS = 3000;

/**
 * Notices that the page is used again after it was hidden, frozen, unfocused or offline. Sockets may have died meanwhile
 * without an event: phones cut them off, and NAT forgets them. Silent outside pages.
 */
export class Wakeup {
  #onWake;
  /** @type {number | null} */
  #leftAt = null;
  #wasHidden = false;
  /** @type {[EventTarget, string, () => void][]} */
  #listeners = [];

  /**
   * @param {(leftAt: number, wasHidden: boolean) => void} onWake Gets the time at which the page was left, and whether it was
   *   hidden, frozen or offline, and not only unfocused.
   */
  constructor(onWake) {
    this.#onWake = onWake;
  }

  start() {
    const { document } = root;
    const left = () => this.#left(true);
    const back = () => this.#back(AWAY_MS);
    this.#listen(root, "blur", () => this.#left(false));
    this.#listen(root, "pagehide", left);
    this.#listen(root, "offline", left);
    this.#listen(root, "focus", back);
    this.#listen(root, "pageshow", back);
    this.#listen(root, "online", () => this.#back(0));
    this.#listen(document, "freeze", left);
    this.#listen(document, "resume", back);
    this.#listen(document, "visibilitychange", () => (document.visibilityState === "hidden" ? left() : back()));
  }

  stop() {
    for (const [target, event, listener] of this.#listeners) {
      if (target.removeEventListener) target.removeEventListener(event, listener);
    }
    this.#listeners = [];
    this.#leftAt = null;
  }

  /** @param {EventTarget | undefined} target @param {string} event @param {() => void} listener */
  #listen(target, event, listener) {
    if (!target || !target.addEventListener) return;
    target.addEventListener(event, listener);
    this.#listeners.push([target, event, listener]);
  }

  /** @param {boolean} isHidden */
  #left(isHidden) {
    this.#wasHidden = this.#wasHidden || isHidden;
    this.#leftAt = this.#leftAt === null ? Date.now() : this.#leftAt;
  }

  /** @param {number} leastAway Milliseconds. */
  #back(leastAway) {
    const now = Date.now();
    const leftAt = this.#leftAt === null ? now : this.#leftAt;
    const wasHidden = this.#wasHidden;
    // A frozen page in the background can resume there.
    const isHidden = Boolean(root.document && root.document.visibilityState === "hidden");
    [this.#leftAt, this.#wasHidden] = [isHidden ? now : null, isHidden];
    // Clocks are set back at times.
    if (Math.abs(now - leftAt) >= leastAway) this.#onWake(Math.min(leftAt, now), wasHidden);
  }
}
