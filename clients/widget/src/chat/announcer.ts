// What a screen reader is told: whole sentences, also of a text that is still being written.

import { make } from "./dom.js";

const END = /[.!?…。！？؟][\p{Pe}\p{Pf}"']*\s|\n/gu;
const MAX_KEPT = 12;
const MAX_SENTENCE = 400; // a text without an end is told in pieces of this length

/** A live region; what is put into it is read out when the person is not being told something else. */
export class Announcer {
  readonly element = make("div", {
    className: "unseen",
    attributes: { "aria-live": "polite", "aria-atomic": "false" },
  });

  say(text: string): void {
    const words = text.trim();
    if (!words) return;
    this.element.append(make("p", { dir: "auto" }, words));
    if (this.element.children.length > MAX_KEPT) this.element.firstElementChild?.remove();
  }
}

/** Gathers what one message says until a sentence is whole. Each character is looked at a bounded number of times. */
export class Speech {
  #text = "";
  #seen = 0;

  /**
   * @param say is told each sentence.
   * @param who is put before the first one.
   */
  constructor(
    private readonly say: (text: string) => void,
    private who = "",
  ) {}

  take(text: string): void {
    this.#text += text;
    END.lastIndex = Math.max(0, this.#seen - 8);
    let told = 0;
    for (let end = END.exec(this.#text); end !== null; end = END.exec(this.#text)) {
      this.#tell(this.#text.slice(told, END.lastIndex));
      told = END.lastIndex;
    }
    this.#text = this.#text.slice(told);
    if (this.#text.length > MAX_SENTENCE) this.end();
    this.#seen = this.#text.length;
  }

  /** Nothing follows. */
  end(): void {
    this.#tell(this.#text);
    this.#text = "";
    this.#seen = 0;
  }

  #tell(text: string): void {
    if (!text.trim()) return;
    this.say(this.who + text);
    this.who = "";
  }
}
