// A sink that writes a tree down as text, `<p>a <strong>b</strong></p>`, and counts what is asked of it.

import type { Sink, Tag } from "../src/markdown/parser.js";
import { Markdown } from "../src/markdown/parser.js";

type Node = { tag: string; extra: string; children: (Node | string)[] };

export class Outline implements Sink {
  readonly root: Node = { tag: "", extra: "", children: [] };
  #path: Node[] = [this.root];
  operations = 0;

  get #at(): Node {
    return this.#path.at(-1) as Node;
  }

  text(text: string): void {
    this.operations++;
    this.#at.children.push(text);
  }

  open(tag: Tag): void {
    this.operations++;
    const node: Node = { tag, extra: "", children: [] };
    this.#at.children.push(node);
    this.#path.push(node);
  }

  leaf(tag: "br" | "hr"): void {
    this.operations++;
    this.#at.children.push({ tag, extra: "/", children: [] });
  }

  close(): void {
    this.operations++;
    this.#path.pop();
  }

  link(href: string): void {
    this.operations++;
    this.#at.extra = ` ${href}`;
  }

  start(number: number): void {
    this.#at.extra = ` ${number}`;
  }

  unwrap(before: string, after: string): void {
    const node = this.#path.pop() as Node;
    this.operations += node.children.length + 2;
    this.#at.children.splice(this.#at.children.indexOf(node), 1, before, ...node.children, after);
  }
}

function written({ tag, extra, children }: Node): string {
  const inside = children.map((child) => (typeof child === "string" ? child : written(child))).join("");
  if (tag === "") return inside;
  return extra === "/" ? `<${tag}>` : `<${tag}${extra}>${inside}</${tag}>`;
}

/** Render pieces; the tree, and how much was done for it. */
export function render(pieces: string[]): { tree: string; operations: number; looked: number } {
  const outline = new Outline();
  const markdown = new Markdown(outline, "https://shop.example/basket/");
  for (const piece of pieces) markdown.feed(piece);
  markdown.finish();
  return { tree: written(outline.root), operations: outline.operations, looked: markdown.looked };
}
