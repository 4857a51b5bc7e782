/**
 * The global object, also in browsers that have no `globalThis`.
 * @type {typeof globalThis}
 */
export const root = typeof globalThis === "undefined" ? /** @type {any} */ (self) : globalThis;
