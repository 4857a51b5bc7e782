// Elements of the page.

/** A new element. Children that are strings become text, whatever is in them. */
export function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
