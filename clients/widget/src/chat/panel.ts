// The panel: what stands around the messages. It knows nothing of conversations.

import { make } from "./dom.js";
import type { Words } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const CROSS = "M6 6l12 12M18 6L6 18";
const FRESH = "M20 12a8 8 0 1 1-2.3-5.7M20 3v4h-4";
const PLANE = "M3.4 20.4 21 12 3.4 3.6 3.4 10 15 12 3.4 14z";

/** What the connection is like, for people. */
export type LinkState = "connecting" | "live" | "lost" | "offline" | "stopped";

/** What the panel asks of the chat. */
export interface PanelEvents {
  close(): void;
  restart(): void;
  retry(): void;
  say(text: string): void;
  typing(typing: boolean): void;
}

function icon(path: string): SVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("d", path);
  svg.append(drawn);
  return svg;
}

export class Panel {
  readonly element: HTMLDialogElement;
  readonly input: HTMLTextAreaElement;
  readonly #status: HTMLElement;
  readonly #state: HTMLElement;
  readonly #trouble: HTMLElement;
  readonly #why: HTMLElement;
  readonly #retry: HTMLButtonElement;

  constructor(
    private readonly words: Words,
    heading: string,
    inline: boolean,
    middle: HTMLElement[],
    private readonly events: PanelEvents,
  ) {
    const button = (name: string, label: string, path: string, onclick: () => void) =>
      make(
        "button",
        { type: "button", part: name, title: label, onclick, attributes: { "aria-label": label } },
        icon(path),
      );
    this.#state = make("span", { className: "words" });
    this.#status = make(
      "p",
      { className: "status", part: "status", attributes: { role: "status" } },
      make("span", { className: "dot", attributes: { "aria-hidden": "true" } }),
      this.#state,
    );
    this.#why = make("p", { dir: "auto" });
    this.#retry = make("button", { type: "button", onclick: events.retry }, words.retry);
    this.#trouble = make(
      "div",
      { className: "trouble", hidden: true, part: "trouble", attributes: { role: "alert" } },
      this.#why,
      this.#retry,
    );
    this.input = make("textarea", {
      id: "say",
      rows: 1,
      dir: "auto",
      autocomplete: "off",
      enterKeyHint: "send",
      placeholder: words.placeholder,
      part: "input",
    });
    const send = make(
      "button",
      { type: "submit", part: "send", title: words.send, attributes: { "aria-label": words.send } },
      icon(PLANE),
    );
    const composer = make(
      "form",
      { className: "composer", part: "composer" },
      make("label", { htmlFor: "say", className: "unseen" }, words.message),
      this.input,
      send,
    );
    const titles = make(
      "div",
      { className: "titles" },
      make("h2", { id: "heading", dir: "auto" }, heading),
      this.#status,
    );
    const header = make(
      "header",
      { part: "header" },
      titles,
      button("restart", words.restart, FRESH, events.restart),
    );
    if (!inline) header.append(button("close", words.close, CROSS, events.close));
    this.element = make(
      "dialog",
      { className: "panel", part: "panel", attributes: { "aria-labelledby": "heading" } },
      header,
      make("div", { className: "bar" }, this.#trouble),
      make("div", { className: "middle" }, ...middle),
      composer,
    );
    this.element.oncancel = (event) => {
      event.preventDefault(); // Esc of a modal one; the launcher has the say
      events.close();
    };
    this.element.onkeydown = (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || inline) return;
      event.preventDefault();
      events.close();
    };
    this.input.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    };
    this.input.oninput = () => this.#onInput();
    composer.onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
  }

  /** Show it: over the whole of a small screen as a modal one, which keeps the focus in it. */
  show(inline: boolean): void {
    if (this.element.open) return;
    if (!inline && matchMedia("(max-width: 30rem)").matches) this.element.showModal();
    else this.element.setAttribute("open", ""); // show() would take the focus, also where nobody asked
  }

  hide(): void {
    this.element.close();
  }

  /** Go on writing; on a touch screen that would open the keyboard over what was just said. */
  focus(): void {
    if (matchMedia("(pointer: fine)").matches) this.input.focus({ preventScroll: true });
    else this.element.querySelector<HTMLElement>(".scroll")?.focus({ preventScroll: true });
  }

  link(state: LinkState): void {
    this.#status.dataset.state = state;
    const words = this.words[state];
    if (this.#state.textContent !== words) this.#state.textContent = words;
  }

  /** Say what is wrong; null: nothing is. `retry`: a person may try again. */
  trouble(text: string | null, retry = false): void {
    this.#trouble.hidden = text === null;
    this.#retry.hidden = !retry;
    if (this.#why.textContent !== (text ?? "")) this.#why.textContent = text ?? "";
  }

  /** What was refused comes back to be mended, unless something else is being written. */
  giveBack(text: string): void {
    if (this.input.value === "") this.input.value = text;
    this.#grow();
  }

  #submit(): void {
    const text = this.input.value.trim();
    if (text) {
      this.events.say(text);
      this.input.value = "";
      this.#onInput();
    }
    this.input.focus({ preventScroll: true });
  }

  #onInput(): void {
    this.#grow();
    this.events.typing(this.input.value !== "");
  }

  #grow(): void {
    this.input.rows = Math.min(6, this.input.value.split("\n").length); // where there is no field-sizing
  }
}
