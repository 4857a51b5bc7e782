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
    if (typeof globalThis.reportError === "function") globalThis.reportError(error);
    else console.error(error);
    return undefined;
  }
}

/**
 * Handlers by the name of their event.
 * @template {Record<string, any>} Events
 */
export class Emitter {
  /** @type {Map<keyof Events, ((value: any) => unknown)[]>} */
  #handlers = new Map();

  /** @template {keyof Events} K @param {K} event @param {(value: Events[K]) => unknown} handler */
  on(event, handler) {
    this.#handlers.set(event, [...(this.#handlers.get(event) ?? []), handler]);
  }

  /** @template {keyof Events} K @param {K} event @param {(value: Events[K]) => unknown} handler */
  off(event, handler) {
    const handlers = this.#handlers.get(event) ?? [];
    this.#handlers.set(event, handlers.filter((each) => each !== handler));
  }

  /** @template {keyof Events} K @param {K} event @param {Events[K]} value */
  emit(event, value) {
    for (const handler of this.#handlers.get(event) ?? []) callSafely(handler, value);
  }
}
