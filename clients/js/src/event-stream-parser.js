// Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html has them. Pure.

/** @typedef {{ type: string, data: string }} StreamEvent */

/** Text in pieces of any size in, events out. */
export class EventStreamParser {
  #rest = "";
  #isFirst = true;
  #endedInCr = false;
  #type = "";
  /** @type {string[]} */
  #data = [];

  /**
   * @param {string} text The next piece.
   * @returns {StreamEvent[]} The events that it completes.
   */
  push(text) {
    if (this.#isFirst && text) {
      this.#isFirst = false;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    if (this.#endedInCr && text) {
      this.#endedInCr = false;
      if (text.startsWith("\n")) text = text.slice(1);
    }
    if (text.endsWith("\r")) this.#endedInCr = true;
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop() ?? "";
    /** @type {StreamEvent[]} */
    const events = [];
    for (const line of lines) this.#read(line, events);
    return events;
  }

  /** @param {string} line @param {StreamEvent[]} events */
  #read(line, events) {
    if (line === "") {
      if (this.#data.length > 0) events.push({ type: this.#type || "message", data: this.#data.join("\n") });
      this.#type = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
  }
}
