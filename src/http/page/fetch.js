// Asking the server, with the token where it wants one.

const PATIENCE_MS = 5000;
// The broker may take 10 s to confirm.
const PATIENCE_TO_POST_MS = 15000;

let token = "";

export function useToken(text) { token = text; }

/** The server does not take the token, or there is none yet. */
export class Unauthorized extends Error {}

/** The server was reached, and does not do what was asked. */
export class Refused extends Error {}

/** The JSON that is answered to a GET of `path`, or to a POST of `body`. */
export async function ask(path, body) {
  const patience = body === undefined ? PATIENCE_MS : PATIENCE_TO_POST_MS;
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers: token ? { Authorization: `Bearer ${token}` } : {},
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    redirect: "error",
    signal: AbortSignal.timeout(patience),
  }).catch((error) => {
    throw new Error(error.name === "TimeoutError" ? `it did not answer within ${patience / 1000} s` : "it cannot be reached");
  });
  if (response.status === 401) throw new Unauthorized("the server does not take the token");
  const answer = await response.json().catch(() => { throw new Error(`its answer (${response.status}) cannot be read`); });
  if (!response.ok) throw new Refused(answer.detail ?? answer.message ?? `the server answered ${response.status}`);
  return answer;
}

/** `path` with a query, whatever stands in it. */
export const query = (path, parameters) => `${path}?${new URLSearchParams(parameters)}`;
