// Making elements. Text only ever becomes text: nothing here, or anywhere in this page, parses markup.

export const $ = (id) => document.getElementById(id);

/** Make an element: `make("p", {className: "hint"}, "text", child)`. Attributes that are no properties: `attributes`. */
export function make(tag, { attributes = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Show a JSON value to people. */
export const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** Show an error of the wire: what was wrong, and what would be right. */
export const explained = (error) => [error.message, error.suggestion].filter(Boolean).join(" ");

/** Let a screen reader say something that is seen elsewhere. */
export function announce(text) {
  $("announcer").textContent = "";
  requestAnimationFrame(() => ($("announcer").textContent = text));
}

/** Have the browser save a file. */
export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** Show the newest. */
export function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

/** Change what is in the chat; who looks at its end goes on looking at its end. */
export function keepingEnd(change) {
  const scroll = $("scroll");
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  change();
  if (atEnd) toEnd();
}
