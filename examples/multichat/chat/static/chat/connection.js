// Shows the state of the connection in the header, and a banner while the page is not connected.

import { call, explain, Refused } from "./api.js";

const PATIENCE = 2000; // ms for the first connection
const TEXTS = { open: "Connected", closed: "Disconnected" };

export function showConnection(socket, { state, banner, button }) {
  let hasBeenOpen = false, isLate = false, reason = "";

  function show() {
    const text = TEXTS[socket.state] ?? (hasBeenOpen ? "Reconnecting…" : "Connecting…");
    state.textContent = socket.state === "open" && socket.transport === "sse" ? `${text} (server-sent events)` : text;
    state.className = socket.state === "open" ? "good" : "bad";
    banner.parentElement.hidden = socket.state === "open" || !(hasBeenOpen || isLate || socket.state === "closed");
    banner.textContent = socket.state === "closed" ? reason : "Not connected. Reconnecting…";
    button.textContent = socket.state === "closed" ? "Reload" : "Try now";
  }

  async function onClosed() {
    try {
      await call("GET", "bootstrap/");
      reason = "The connection has been ended. Reload the page to go on.";
    } catch (error) {
      reason = error instanceof Refused ? "You have been logged out. Reload the page to log in again." : explain(error);
    }
    show();
  }

  socket.on("state", (now) => {
    hasBeenOpen ||= now === "open";
    show();
    if (now === "closed") onClosed();
  });
  button.onclick = () => (socket.state === "closed" ? location.reload() : socket.connect());
  setTimeout(() => { isLate = true; show(); }, PATIENCE);
  show();
}
