import { root } from "./root.js";

/**
 * Calls a function of the application's, and returns its result. What it throws is reported, and disturbs nothing else.
 * @template {any[]} A
 * @param {((...values: A) => unknown) | null | undefined} callback
 * @param {A} values
 * @returns {unknown}
 */
export function callSafely(callback, ...values) {
  if (typeof callback !== "function") return undefined;
  try {
    return callback(...values);
  } catch (error) {
    if (typeof root.reportError === "function") root.reportError(error);
    else console.error(error);
    return undefined;
  }
}

/**
 * Handlers by the name of their event. Those of `"*"` get every event, with its name before the value.
 * @template {Record<string, any>} Events
 */
export class Emitter {
  /** @type {Map<keyof Events | "*", Function[]>} */
  #handlers = new Map();

  /** @param {keyof Events | "*"} event @param {Function} handler */
  on(event, handler) {
    this.#handlers.set(event, [...this.#list(event), handler]);
  }

  /** @param {keyof Events | "*"} event @param {Function} handler */
  off(event, handler) {
    this.#handlers.set(event, this.#list(event).filter((each) => each !== handler));
  }

  /** Whether anything listens to one of them. @param {(keyof Events)[]} events */
  hears(...events) {
    return [...events, "*"].some((event) => this.#list(event).length > 0);
  }

  /** @template {keyof Events} K @param {K} event @param {Events[K]} value */
  emit(event, value) {
    for (const handler of this.#list(event)) callSafely(/** @type {any} */ (handler), value);
    for (const handler of this.#list("*")) callSafely(/** @type {any} */ (handler), event, value);
  }

  /** @param {keyof Events | "*"} event */
  #list(event) {
    return this.#handlers.get(event) ?? [];
  }
}
