// Fills the window with the panels of rooms. If there is not enough space for all, it shows the most recently used ones; on a phone, one.

const WIDTH = 21, HEIGHT = 20; // rem per panel; the height includes a share of the page's header
const PHONE = matchMedia("(max-width: 45rem)");

export class Layout {
  #container; #onChange;
  #used = []; // panels, the most recently used one last

  /** Calls `onChange` when other panels may be in view. */
  constructor(container, onChange) {
    this.#container = container;
    this.#onChange = onChange;
    new ResizeObserver(() => this.arrange()).observe(container);
  }

  /** Inserts a panel before `next`, or at the end. It counts as the least recently used one, unless `use` was called for it. */
  add(panel, next) {
    if (!this.#used.includes(panel)) this.#used.unshift(panel);
    this.#container.insertBefore(panel, next);
    panel.addEventListener("focusin", () => this.use(panel));
    this.arrange();
  }

  remove(panel) {
    this.#used = this.#used.filter((other) => other !== panel);
    panel.remove();
    this.arrange();
  }

  /** Brings a panel into view. It may be added later. */
  use(panel) {
    if (this.#used.at(-1) === panel) return;
    this.#used = [...this.#used.filter((other) => other !== panel), panel];
    this.arrange();
  }

  /** All panels, the most recently used one last. */
  get used() { return this.#used; }

  arrange() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const fit = (length, size) => Math.max(1, Math.floor(length / (size * rem)));
    const across = fit(this.#container.clientWidth, WIDTH);
    const panels = this.#used.filter((panel) => panel.isConnected);
    const down = PHONE.matches ? 1 : fit(innerHeight, HEIGHT); // of the window: the banner must not hide a panel
    const inView = panels.slice(-across * down);
    panels.forEach((panel) => { panel.hidden = !inView.includes(panel); });
    const rows = Math.max(1, Math.ceil(inView.length / across));
    this.#container.style.setProperty("--rows", rows);
    this.#container.style.setProperty("--columns", Math.ceil(inView.length / rows));
    this.#onChange();
  }
}
