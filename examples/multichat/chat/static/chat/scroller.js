// Keeps the reader's position in a list that grows at both ends. A reader at the end stays at the end. Elsewhere, the rows in view stay
// where they are, whatever changes above and below them.

const NEAR = 8; // px from the end that count as the end

export class Scroller {
  #view; #onMove;
  #top = 0; // scrollTop at the last look
  #inView = null; // rows in view with their offsets; null while the reader is at the end

  /** `view` is the element that scrolls; its rows are `li`. Calls `onMove` when the reader may have reached or left the end. */
  constructor(view, onMove) {
    this.#view = view;
    this.#onMove = onMove;
    view.addEventListener("scroll", () => this.#look());
    // The view resizes with the window and the banner; the rows, with the width of the view.
    const observer = new ResizeObserver(() => this.#restore());
    observer.observe(view);
    [...view.children].forEach((child) => observer.observe(child));
  }

  get isAtEnd() { return this.#inView === null; }

  toEnd() {
    this.#inView = null;
    this.#restore();
    this.#onMove();
  }

  /** Applies a change of the rows. */
  keep(change) {
    this.#look(); // the browser reports scrolling only when it draws
    change();
    // At once, because the next change may come before the browser draws.
    this.#restore();
  }

  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.#view;
    if (clientHeight === 0) return; // the view is hidden
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    // Only scrolling up leaves the end. Otherwise the list has grown.
    if (isAtEnd) this.#inView = null;
    else if (this.#inView || scrollTop < this.#top) this.#inView = this.#rowsInView();
    this.#top = scrollTop;
    this.#onMove();
  }

  #restore() {
    if (this.#view.clientHeight === 0) return;
    const known = this.#inView?.find(({ row }) => row.isConnected);
    if (known) this.#view.scrollTop += this.#offset(known.row) - known.offset;
    else this.#view.scrollTop = this.#view.scrollHeight;
    this.#top = this.#view.scrollTop;
  }

  #rowsInView() {
    const rows = [...this.#view.querySelectorAll("li")].map((row) => ({ row, offset: this.#offset(row), height: row.offsetHeight }));
    return rows.filter(({ offset, height }) => offset + height > 0 && offset < this.#view.clientHeight);
  }

  #offset(row) {
    return row.getBoundingClientRect().top - this.#view.getBoundingClientRect().top;
  }
}
