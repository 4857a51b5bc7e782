/** @typedef {Record<string, string | number | boolean | null | undefined>} Params */
/** @typedef {Record<string, string>} Texts */
/** @typedef {Params | (() => Params | Promise<Params>)} ParamsSource */

/** The query parameters by which the application's API knows the client. They may change while a Socket lives. */
export class Credentials {
  /** @type {string | null | undefined} */
  #token;
  /** @type {ParamsSource | undefined} */
  #params;
  /** Counts the changes. */
  version = 0;

  /** @param {string | null | undefined} token @param {ParamsSource | undefined} params */
  constructor(token, params) {
    this.#token = token;
    this.#params = params;
  }

  get token() {
    return this.#token;
  }

  set token(token) {
    this.#token = token;
    this.version += 1;
  }

  get params() {
    return this.#params;
  }

  set params(params) {
    this.#params = params;
    this.version += 1;
  }

  /** Whether each reading may give something else. */
  get isDynamic() {
    return typeof this.#params === "function";
  }

  /** Evaluates them. A parameter without a value is an empty text. @returns {Texts | Promise<Texts>} */
  read() {
    const token = this.#token;
    const params = typeof this.#params === "function" ? this.#params() : this.#params;
    const merge = (/** @type {Params | undefined} */ given) => texts(Object.assign(token ? { token } : {}, given));
    return isPromise(params) ? params.then(merge) : merge(params);
  }
}

/** @param {Params} params */
function texts(params) {
  /** @type {Texts} */
  const texts = {};
  for (const name of Object.keys(params)) {
    const value = params[name];
    texts[name] = value === null || value === undefined ? "" : String(value);
  }
  return texts;
}

/** @param {any} value @returns {value is Promise<any>} */
export function isPromise(value) {
  return Boolean(value) && typeof value.then === "function";
}
