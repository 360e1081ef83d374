// Grows a tree of elements. Text only ever becomes text nodes: there is no way from here to a parser of HTML.

import type { Sink, Tag } from "./parser.js";

// A text node that grows by every piece would be copied by every piece; beyond this a new one begins.
const MAX_NODE = 256;

const ELEMENTS: Record<Tag, [name: string, className: string]> = {
  p: ["p", ""],
  heading: ["p", "heading"], // no <h1>: a message does not belong to the outline of the page around it
  blockquote: ["blockquote", ""],
  ul: ["ul", ""],
  ol: ["ol", ""],
  li: ["li", ""],
  pre: ["pre", ""],
  em: ["em", ""],
  strong: ["strong", ""],
  del: ["del", ""],
  code: ["code", ""],
  a: ["a", ""],
};

const BLOCKS = new Set(["p", "pre", "li", "blockquote"]);

/** Builds below `root`. */
export class Tree implements Sink {
  #at: Element;
  readonly #root: Element;

  /**
   * @param heard is told the words as they come, and a line's end where a block ends.
   */
  constructor(
    root: Element,
    private readonly heard: (words: string) => void = () => {},
  ) {
    this.#at = this.#root = root;
  }

  text(text: string): void {
    this.heard(text);
    const last = this.#at.lastChild;
    if (last instanceof Text && last.length + text.length <= MAX_NODE) last.appendData(text);
    else this.#at.append(text);
  }

  open(tag: Tag): void {
    const [name, className] = ELEMENTS[tag];
    const element = document.createElement(name);
    if (className) element.className = className;
    // A block finds its direction by its first letter that has one, and so a list does by its items' letters:
    // an item that looked for itself would be left out of that. Code has none.
    if (tag === "pre") {
      element.dir = "ltr";
      element.tabIndex = 0; // it may scroll sideways, by keyboard too
    } else if (this.#at === this.#root) element.dir = "auto";
    this.#at.append(element);
    this.#at = element;
  }

  leaf(tag: "br" | "hr"): void {
    this.#at.append(document.createElement(tag));
    this.heard("\n");
  }

  close(): void {
    if (BLOCKS.has(this.#at.localName)) this.heard("\n");
    if (this.#at !== this.#root) this.#at = this.#at.parentElement as Element;
  }

  link(href: string): void {
    const link = this.#at as HTMLAnchorElement;
    link.href = href;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow ugc";
  }

  start(number: number): void {
    (this.#at as HTMLOListElement).start = number;
  }

  unwrap(before: string, after: string): void {
    const element = this.#at;
    this.#at = element.parentElement as Element;
    element.replaceWith(before, ...element.childNodes, after);
  }
}
