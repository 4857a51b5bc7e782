// Lists the calls of the Swagger document, sends them, and shows the answers.

import { load } from "./common.js";
import { byId, element } from "./dom.js";

// A reference within the document, looked up.
function resolve(api, schema) {
  const name = schema?.$ref?.replace("#/definitions/", "");
  return name ? api.definitions[name] ?? {} : schema ?? {};
}

function kind(api, schema) {
  const name = schema?.$ref?.replace("#/definitions/", "");
  if (name) return name;
  if (schema?.type === "array") return `list of ${kind(api, schema.items)}`;
  if (typeof schema?.additionalProperties === "object") return `map to ${kind(api, schema.additionalProperties)}`;
  return [schema?.type ?? "anything", schema?.format].filter(Boolean).join(", ");
}

function fields(api, schema) {
  const whole = resolve(api, schema);
  const object = whole.type === "array" ? resolve(api, whole.items) : whole;
  const rows = Object.entries(object.properties ?? {}).map(([name, field]) =>
    element("tr", null,
      element("td", null, element("code", null, name), object.required?.includes(name) ? " (required)" : ""),
      element("td", null, kind(api, field)),
      element("td", null, field.description ?? "",
        "default" in field ? ` Default: ${JSON.stringify(field.default)}` : "")));
  if (!rows.length) return null;
  return element("div", { class: "wide" }, element("table", null,
    element("thead", null, element("tr", null, ...["Field", "Type", "Meaning"].map((name) => element("th", null, name)))),
    element("tbody", null, ...rows)));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function operation(api, path, method, about) {
  const parameters = about.parameters ?? [];
  const body = parameters.find((parameter) => parameter.in === "body");
  const input = body && element("textarea", { rows: 8, spellcheck: false, ariaLabel: "Body" });
  if (input) input.value = JSON.stringify(resolve(api, body.schema).example ?? {}, null, 2);
  const queries = parameters.filter((parameter) => parameter.in === "query").map((parameter) => ({
    name: parameter.name,
    input: element("input", { type: "text", placeholder: parameter.description ?? "" }),
  }));
  const answer = element("pre", { hidden: true });
  const button = element("button", { type: "button" }, "Send");
  const isSigned = (about.security ?? []).some((need) => "signature" in need);
  button.addEventListener("click", async () => {
    const query = new URLSearchParams(queries.filter(({ input }) => input.value).map(({ name, input }) => [name, input.value]));
    const token = byId("token").value.trim();
    const headers = { Accept: "application/json" };
    if (input) headers["Content-Type"] = "application/json";
    if (isSigned && token) headers["X-Channelstream-Secret"] = token;
    answer.hidden = false;
    answer.textContent = "…";
    button.disabled = true;
    const hasBody = input && !["get", "head"].includes(method) && input.value.trim();
    try {
      const address = path.slice(1) + (query.size ? `?${query}` : "");
      const response = await fetch(address, {
        method: method.toUpperCase(), headers, body: hasBody ? input.value : undefined, cache: "no-store",
      });
      answer.textContent = `${response.status} ${response.statusText}\n\n${pretty(await response.text())}`;
    } catch (error) {
      answer.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  });
  return element("details", null,
    element("summary", null, element("b", null, `${method.toUpperCase()} ${path}`), ` ${about.summary ?? ""}`),
    about.description ? element("p", null, about.description) : null,
    body ? fields(api, body.schema) : null,
    ...queries.map(({ name, input }) => element("label", null, element("code", null, name), " ", input)),
    input ?? null,
    element("p", null, button, isSigned ? " with the token above" : ""),
    answer);
}

async function start() {
  try {
    const api = await load("openapi.json");
    const all = Object.entries(api.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, about]) => ({ path, method, about })));
    const shown = all.filter(({ about }) => about.tags?.includes("API") || about.tags?.includes("Client"));
    byId("operations").replaceChildren(...shown.map(({ path, method, about }) => operation(api, path, method, about)));
    byId("state").textContent = "";
  } catch (error) {
    byId("state").textContent = `No document: ${error.message}`;
    byId("state").className = "wrong";
  }
}

start();
