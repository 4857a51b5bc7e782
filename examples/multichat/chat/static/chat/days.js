// The days of a conversation: a heading and a list for each.

import { element } from "./dom.js";

/** The local date of `time`, such as `2026-03-09`. */
export function dayOf(time) {
  const two = (number) => String(number).padStart(2, "0");
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
}

/** The list of the rows of `day` in `container`; it is added if it is missing. */
export function listOf(container, day) {
  const days = [...container.querySelectorAll(".day")];
  const known = days.find((other) => other.dataset.day === day);
  if (known) return known.lastElementChild;
  const made = element("section", { className: "day" }, element("h3"), element("ol"));
  made.dataset.day = day;
  container.insertBefore(made, days.find((other) => other.dataset.day > day) ?? null);
  name(made);
  return made.lastElementChild;
}

function name(section) {
  const time = new Date(`${section.dataset.day}T12:00`), now = new Date();
  const isOf = (daysAgo) => section.dataset.day === dayOf(new Date(now.getFullYear(), now.getMonth(), now.getDate() - daysAgo));
  const year = time.getFullYear() === now.getFullYear() ? undefined : "numeric";
  const date = time.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long", year });
  section.firstElementChild.textContent = isOf(0) ? "Today" : isOf(1) ? "Yesterday" : date;
}

// At midnight, today becomes yesterday.
setInterval(() => document.querySelectorAll(".day").forEach(name), 60_000);
