// What an operator may do to connections, on all instances: asked for once more in the page, and then by POST /control/.

import { byId } from "./dom.js";
import { ask } from "./fetch.js";

const ACTIONS = {
  reauthorize: {
    name: "Reauthorize",
    detail: "The API is asked again what they may do, and the difference applies at once. Who may not connect any more is closed.",
  },
  disconnect: {
    name: "Disconnect",
    detail: "They are closed with 3501, and told not to come back.",
    className: "danger",
  },
};

/** Resolves to whether the operator wants it. */
function confirm(question, { name, detail, className = "" }) {
  const dialog = byId("confirm"), yes = byId("confirm-yes");
  byId("confirm-question").textContent = question;
  byId("confirm-detail").textContent = detail;
  yes.textContent = name;
  yes.className = className;
  dialog.returnValue = "";
  yes.onclick = () => dialog.close("yes");
  byId("confirm-no").onclick = () => dialog.close();
  dialog.showModal();
  byId("confirm-no").focus(); // what an Enter too many does
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** A button that does `action` to `target`, of which it says `whom`. */
export function button(action, target, whom, done) {
  const { name } = ACTIONS[action], made = document.createElement("button");
  made.type = "button";
  made.className = "second";
  made.textContent = name;
  made.setAttribute("aria-label", `${name} ${whom}`);
  made.addEventListener("click", async () => {
    const outcome = byId("outcome");
    if (!await confirm(`${name} ${whom}?`, ACTIONS[action])) return;
    outcome.className = "";
    outcome.textContent = `${name} ${whom} …`;
    try {
      await ask("control/", { action, ...target });
      outcome.textContent = `${name} ${whom}: confirmed by the broker, and carried out by every instance in the order of the log.`;
    } catch (error) {
      outcome.className = "wrong";
      outcome.textContent = `${name} ${whom}: not done: ${error.message}.`;
    }
    done();
  });
  return made;
}
