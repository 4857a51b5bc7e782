// Calls of the application.

const TIMEOUT = 20_000; // ms

/** The application has said no, and why: `message` is for people. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Resolves with the answer. Rejects with `Refused`, or with another error when the application cannot be reached. */
export async function call(method, path, body) {
  const headers = { "Content-Type": "application/json", "X-CSRFToken": cookie("csrftoken") };
  const answer = await fetch(`/api/${path}`, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(TIMEOUT) });
  if (answer.status >= 500) throw new Error(`status ${answer.status}`);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, content.error ?? "The application did not take that. Please reload the page.");
  return content;
}

function cookie(name) {
  return document.cookie.split("; ").find((pair) => pair.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
}

/** A new UUID. (`crypto.randomUUID` is there on pages over https only.) */
export function uuid() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether it may help to ask again later. */
export function isTemporary(error) {
  return !(error instanceof Refused);
}

/** What to tell people of an error. */
export function explain(error) {
  return error instanceof Refused ? error.message : "The application cannot be reached.";
}
