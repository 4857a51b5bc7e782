// Making and finding elements. Text enters a page as text only.

export function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key === "class") made.className = value;
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null).map((child) => child instanceof Node ? child : String(child)));
  return made;
}

export const byId = (id) => document.getElementById(id);
