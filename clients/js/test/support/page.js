// A page around a client that runs in Node.

/** Gives the globals a window's events and a document until the end of test `t`. `page.left()` and `page.back()` hide and show it. */
export function page(t) {
  const window = new EventTarget();
  const document = new EventTarget();
  document.visibilityState = "visible";
  Object.assign(globalThis, { document });
  for (const name of ["addEventListener", "removeEventListener"]) globalThis[name] = window[name].bind(window);
  t.after(() => {
    for (const name of ["addEventListener", "removeEventListener", "document"]) delete globalThis[name];
  });
  const show = (visibilityState) => {
    document.visibilityState = visibilityState;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  return {
    emit: (name) => window.dispatchEvent(new Event(name)),
    left: () => show("hidden"),
    back: () => show("visible"),
  };
}
