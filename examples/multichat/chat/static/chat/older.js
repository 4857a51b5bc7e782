// Fetches older messages when the reader comes near the top. There is a button for it as well, for the keyboard and after a failure.

const AHEAD = "400px 0px 0px"; // distance from the top

/** Calls `fetch()` when `button`, at the top of `view`, comes near or is pressed. `fetch` resolves to whether it succeeded. */
export function fetchOnScroll(view, button, fetch) {
  const observer = new IntersectionObserver((entries) => { if (entries.at(-1).isIntersecting) run(); }, { root: view, rootMargin: AHEAD });
  let isRunning = false;

  async function run() {
    if (isRunning || button.hidden) return;
    isRunning = button.ariaDisabled = true;
    const isDone = await fetch();
    isRunning = button.ariaDisabled = false;
    // A new observation reports whether the button is still near. After a failure, the reader has to press it.
    if (isDone) observe();
  }

  function observe() {
    observer.unobserve(button);
    observer.observe(button);
  }

  button.onclick = run;
  observe();
}
