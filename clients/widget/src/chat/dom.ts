// Making elements. Text only ever becomes text: nothing in the widget parses markup.

type Properties = { attributes?: Record<string, string>; part?: string; [name: string]: unknown };

/** Make an element: `make("p", {className: "hint"}, "text", child)`. What is no property goes into `attributes`. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  { attributes = {}, part, ...properties }: Properties = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  if (part) element.setAttribute("part", part);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Show a JSON value to people. */
export const shown = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** What of an error of the wire concerns people: what was wrong, and what would be right. */
export const explained = (error: { message: string; suggestion?: string | null }): string =>
  [error.message, error.suggestion].filter(Boolean).join(" ");
