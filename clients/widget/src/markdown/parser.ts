// Markdown as it arrives, character by character: each one is looked at a bounded number of times, whatever the
// pieces are, so a stream costs O(n), and the same text gives the same tree however it was cut.
//
// That needs two liberties. What opens (emphasis, code, a link's words) is shown as such at once, and becomes
// text again if its block ends before it has closed; and nothing looks further ahead than a block's marker, a
// run of delimiters or an address. The subset: paragraphs with line breaks, headings, quotes, nested lists,
// fenced code, rules, emphasis, strong, struck, code spans, links by name and bare http(s) addresses.
// No HTML, no images, no reference links: what is not in the subset stays the text that it is.

/** Where a tree grows: at any time one element is the current one. Nothing is ever parsed as markup. */
export interface Sink {
  /** Append text to the current element. */
  text(text: string): void;
  /** Append an element and make it the current one. */
  open(tag: Tag): void;
  /** Append an element that stays empty. */
  leaf(tag: "br" | "hr"): void;
  /** Make the parent the current element. */
  close(): void;
  /** Say where the current link leads. */
  link(href: string): void;
  /** Say at which number the current list begins. */
  start(number: number): void;
  /** Put the current element's children in its place, between these texts; the parent becomes the current one. */
  unwrap(before: string, after: string): void;
}

export type Tag =
  | "p"
  | "heading"
  | "blockquote"
  | "ul"
  | "ol"
  | "li"
  | "pre"
  | "em"
  | "strong"
  | "del"
  | "code"
  | "a";

const MAX_DEPTH = 8; // of emphasis in emphasis, of lists in lists: what is deeper stays text
const MAX_ADDRESS = 2048;
const SCHEMES = new Set(["http:", "https:", "mailto:", "tel:"]);
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const BARE = ["https://", "http://"];

/** Return where an address leads if it is one that may be followed, else null. */
export function safeHref(address: string, base: string): string | null {
  try {
    const url = new URL(address, base);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

interface Span {
  tag: "em" | "strong" | "del" | "code" | "a";
  /** What it was written as: it comes back as text if the span never closes. */
  mark: string;
  /** A bare address: its words are where it leads. */
  bare?: boolean;
}

interface List {
  /** Column of its markers, and of what belongs to its items. */
  marker: number;
  content: number;
  ordered: boolean;
}

type Leaf = "none" | "paragraph" | "heading" | "code";

export class Markdown {
  readonly #sink: Sink;
  readonly #base: string;
  #text = "";
  #leaf: Leaf = "none";
  #quoted = false;
  #lists: List[] = [];
  #blank = false; // the line before was empty
  #spans: Span[] = [];
  // the beginning of a line, until it is clear what it is
  #inLine = false;
  #prefix = "";
  #firstMark = ""; // its first character that is no blank, and where that is
  #markAt = 0;
  #dotted = false;
  #continued = false; // this line has its `>`
  #fence = { mark: "", indent: 0 };
  #info = false; // behind a fence's mark
  // inside a line: what one more character decides
  #held = "";
  #before = "\n"; // the character ahead of what is held
  #address: { text: string; depth: number; title: boolean } | null = null;
  #bare = ""; // a bare address, as far as it is known to go
  #tail = ""; // punctuation that may end a bare address
  /** How many characters were looked at, the same one again counted again. For tests. */
  looked = 0;

  /**
   * @param base what relative links are relative to.
   */
  constructor(sink: Sink, base: string) {
    this.#sink = sink;
    this.#base = base;
  }

  /** Take the next piece. */
  feed(piece: string): void {
    for (let at = 0; at < piece.length; at++) this.#take(piece.charAt(at));
    this.#flush();
  }

  /** The text is whole. */
  finish(): void {
    if (!this.#inLine && this.#prefix !== "") this.#lineStart("\n");
    this.#endBlock();
    this.#continued = false;
    this.#closeContainers(0);
    this.#flush();
  }

  #take(char: string): void {
    this.looked++;
    if (char === "\r") return;
    if (this.#inLine) this.#inline(char);
    else this.#lineStart(char);
  }

  // --- the beginning of a line ------------------------------------------------------------------

  #lineStart(char: string): void {
    if (this.#leaf === "code") this.#codeStart(char);
    else if (char !== "\n" && this.#undecided(this.#prefix + char)) this.#prefix += char;
    else this.#endPrefix(char);
  }

  /** Whether more characters are needed to tell what a line is that begins so. Bounded but for rules and blanks. */
  #undecided(prefix: string): boolean {
    const last = prefix.charAt(prefix.length - 1);
    const first = this.#firstMark;
    if (first === "") {
      if (last === " " || last === "\t") return true;
      if (!"#`~-*_+>0123456789".includes(last)) return false;
      this.#firstMark = last;
      this.#markAt = prefix.length - 1;
      return true;
    }
    const length = prefix.length - this.#markAt;
    if (first === ">") return false;
    if (first === "#") return last === "#" && length <= 6;
    if (first === "`" || first === "~") return last === first && length < 3;
    if (first === "+") return false;
    if (first === "-" || first === "*" || first === "_") return last === first || last === " ";
    return last >= "0" && last <= "9"
      ? length <= 9
      : (last === "." || last === ")") && !this.#dotted && (this.#dotted = true);
  }

  /** It is clear what the line is; `char` is the first one behind what tells. */
  #endPrefix(char: string): void {
    const prefix = this.#prefix;
    const indent = columns(prefix.slice(0, this.#firstMark === "" ? prefix.length : this.#markAt));
    const mark = this.#firstMark === "" ? "" : prefix.slice(this.#markAt);
    this.#prefix = this.#firstMark = "";
    this.#dotted = false;
    if (mark === "" && char === "\n") {
      this.#blankLine();
      return;
    }
    const first = mark.charAt(0);
    if (first === ">") this.#quote(indent, char);
    else if (first === "#" && (char === " " || char === "\n")) this.#beginHeading(indent, char);
    else if (isFence(mark + char) && !this.#quoted) this.#beginCode(indent, mark + char);
    else if (char === "\n" && isRule(mark)) this.#rule(indent);
    else if (!this.#beginItem(indent, mark, char)) this.#beginText(indent, mark + char);
  }

  #blankLine(): void {
    this.#endBlock();
    this.#blank = true;
    this.#leaveQuote();
    this.#continued = false;
  }

  /** Something begins at this column: close the lists that it is not in. */
  #settle(indent: number): void {
    let inside = this.#lists.length;
    while (inside > 0 && indent < (this.#lists[inside - 1] as List).content) inside--;
    this.#closeContainers(inside);
    this.#blank = false;
  }

  #quote(indent: number, char: string): void {
    if (!this.#quoted) {
      this.#endBlock();
      this.#settle(indent);
      this.#closeContainers(0);
      this.#open("blockquote");
      this.#quoted = true;
    }
    this.#continued = true;
    if (char !== " ") this.#lineStart(char);
  }

  #leaveQuote(): void {
    if (this.#quoted && !this.#continued) this.#closeContainers(0);
  }

  #beginHeading(indent: number, char: string): void {
    this.#endBlock();
    this.#leaveQuote();
    this.#settle(indent);
    this.#open("heading");
    this.#leaf = "heading";
    this.#enter(char === " " ? "" : char);
  }

  #rule(indent: number): void {
    this.#endBlock();
    this.#leaveQuote();
    this.#settle(indent);
    this.#flush();
    this.#sink.leaf("hr");
  }

  /** Begin an item if this is a marker: `- `, `1. `. */
  #beginItem(indent: number, mark: string, char: string): boolean {
    const ordered = /^\d/.test(mark);
    // a line of more such characters, `- - x`, is an item that holds the rest
    const marker = ordered ? /^\d{1,9}[.)]$/.exec(mark) : /^[-*+](?= |$)/.exec(mark);
    if (marker === null) return false;
    const rest = mark.slice(marker[0].length) + char;
    if (rest.charAt(0) !== " " && rest !== "\n") return false;
    this.#endBlock();
    this.#leaveQuote();
    let inside = this.#lists.length;
    while (inside > 0 && indent < (this.#lists[inside - 1] as List).marker) inside--;
    const above = this.#lists[inside - 1];
    const sibling = above !== undefined && indent < above.content && above.ordered === ordered;
    const nested = above !== undefined && indent >= above.content;
    if (nested && inside >= MAX_DEPTH) return false;
    this.#closeContainers(nested || sibling ? inside : Math.max(0, inside - (above ? 1 : 0)));
    if (sibling) {
      this.#close();
      above.content = indent + marker[0].length + 1;
    } else {
      this.#open(ordered ? "ol" : "ul");
      if (ordered && Number.parseInt(mark, 10) !== 1) this.#sink.start(Number.parseInt(mark, 10));
      this.#lists.push({ marker: indent, content: indent + marker[0].length + 1, ordered });
    }
    this.#open("li");
    this.#blank = false;
    const text = rest.slice(1).replace(/^ +/, "");
    if (rest !== "\n") this.#enter(text, true);
    return true;
  }

  #beginText(indent: number, text: string): void {
    if (this.#leaf === "paragraph") {
      // goes on, lazily too: whatever its indentation
      this.#flush();
      this.#sink.leaf("br");
      this.#enter(text);
      return;
    }
    this.#leaveQuote();
    if (this.#blank || this.#lists.length > 0) this.#settle(indent);
    this.#blank = false;
    this.#open("p");
    this.#leaf = "paragraph";
    this.#enter(text);
  }

  /** Go on inside the line; `text` was looked at already to find out what the line is. */
  #enter(text: string, item = false): void {
    if (item) {
      this.#open("p");
      this.#leaf = "paragraph";
    }
    this.#inLine = true;
    this.#before = "\n";
    for (const char of text.split("")) {
      this.looked++;
      if (this.#inLine) this.#inline(char);
    }
  }

  // --- fenced code ------------------------------------------------------------------------------

  #beginCode(indent: number, mark: string): void {
    this.#endBlock();
    this.#leaveQuote();
    this.#settle(indent);
    this.#open("pre");
    this.#open("code");
    this.#leaf = "code";
    this.#fence = { mark: mark.charAt(0), indent };
    this.#info = true;
    this.#inLine = true;
  }

  /** The beginning of a line of code: perhaps it is the fence. */
  #codeStart(char: string): void {
    const prefix = this.#prefix + char;
    const stripped = prefix.replace(/^[ \t]*/, "");
    const fence = this.#fence.mark;
    if (char === "\n" && stripped.trimEnd().length >= 3) {
      this.#prefix = "";
      this.#closeCode();
    } else if (
      char !== "\n" &&
      prefix.length < 80 &&
      [...stripped].every((one) => one === fence || (one === " " && stripped.length > 3))
    ) {
      this.#prefix = prefix;
    } else {
      this.#prefix = "";
      this.#text += unindented(prefix, this.#fence.indent);
      this.#inLine = char !== "\n";
    }
  }

  #closeCode(): void {
    this.#close();
    this.#close();
    this.#leaf = "none";
    this.#blank = true;
  }

  // --- inside a line ----------------------------------------------------------------------------

  #inline(char: string): void {
    if (this.#leaf === "code") this.#inCode(char);
    else if (this.#address !== null) this.#inAddress(char);
    else if (this.#held !== "") this.#decide(char);
    else this.#plain(char);
  }

  #inCode(char: string): void {
    if (char === "\n") {
      this.#inLine = false;
      if (!this.#info) this.#text += char;
      this.#info = false;
    } else if (!this.#info) this.#text += char;
  }

  /** A character with nothing held before it. */
  #plain(char: string): void {
    const span = this.#spans.at(-1);
    if (span?.bare) this.#inBare(char);
    else if (char === "\n") this.#endLine();
    else if (span?.tag === "code" && char !== "`") this.#say(char);
    else if ("\\`*_~![".includes(char)) this.#held = char;
    else if (char === "]" && this.#inLink()) this.#held = char;
    else if (char === "h" && !WORD.test(this.#before) && !this.#inLink()) this.#held = char;
    else this.#say(char);
  }

  #say(text: string): void {
    this.#text += text;
    this.#before = text.charAt(text.length - 1);
  }

  /** One more character behind what is held. Each is held once, and looked at again at most once. */
  #decide(char: string): void {
    const held = this.#held;
    const first = held.charAt(0);
    if (first === "h") {
      if (BARE.some((scheme) => scheme.startsWith(held + char))) this.#held += char;
      else this.#endBareStart(char);
      return;
    }
    if ("`*_~".includes(first) && char === first) {
      this.#held += char;
      return;
    }
    this.#held = "";
    if (first === "\\") this.#escape(char);
    else if (first === "`") this.#backticks(held, char);
    else if (first === "!" && char === "[") this.#openLink("![");
    else if (first === "!") this.#again("!", char);
    else if (first === "[") {
      this.#openLink("[");
      this.#plain(char);
    } else if (first === "]") this.#endWords(char);
    else this.#delimiters(held, char);
  }

  #again(text: string, char: string): void {
    this.#say(text);
    this.#plain(char);
  }

  #escape(char: string): void {
    if (PUNCTUATION.test(char)) this.#say(char);
    else this.#again("\\", char);
  }

  #backticks(run: string, char: string): void {
    const span = this.#spans.at(-1);
    if (span?.tag === "code") {
      if (span.mark === run) this.#closeSpan();
      else this.#say(run);
    } else if (!this.#openSpan({ tag: "code", mark: run })) this.#say(run);
    this.#before = "`";
    this.#plain(char);
  }

  /** A run of `*`, `_` or `~` between the character before and this one: does it close, open, or stand for itself? */
  #delimiters(run: string, next: string): void {
    const mark = run.charAt(0);
    const [before, left] = [this.#before, { count: run.length }];
    const apart = mark === "_";
    const closes = !/\s/.test(before) && !(apart && WORD.test(next));
    const opens =
      !/\s/.test(next) && !(apart && WORD.test(before)) && !(PUNCTUATION.test(next) && WORD.test(before));
    if (mark === "~" && run.length !== 2) {
      this.#again(run, next);
      return;
    }
    if (closes) this.#closeRun(mark, left);
    while (left.count > 0 && opens && left.count <= 3) {
      const size = mark === "~" || left.count >= 2 ? 2 : 1;
      const tag = mark === "~" ? "del" : size === 2 ? "strong" : "em";
      if (!this.#openSpan({ tag, mark: mark.repeat(size) })) break;
      left.count -= size;
    }
    if (left.count > 0) this.#say(mark.repeat(left.count));
    this.#before = mark;
    this.#plain(next);
  }

  #closeRun(mark: string, left: { count: number }): void {
    for (;;) {
      const fits = (span: Span) => span.mark.charAt(0) === mark && span.mark.length <= left.count;
      const exactly = this.#spans.findLastIndex((span) => fits(span) && span.mark.length === left.count);
      const at = exactly >= 0 ? exactly : this.#spans.findLastIndex(fits);
      const link = this.#spans.findLastIndex((span) => span.tag === "a");
      if (left.count === 0 || at < 0 || at < link) return;
      while (this.#spans.length > at + 1) this.#unwrapSpan();
      left.count -= (this.#spans[at] as Span).mark.length;
      this.#closeSpan();
    }
  }

  // --- links ------------------------------------------------------------------------------------

  #inLink(): boolean {
    return this.#spans.some((span) => span.tag === "a");
  }

  #openLink(mark: string): void {
    if (this.#inLink() || !this.#openSpan({ tag: "a", mark })) this.#say(mark);
  }

  /** Behind `]`: an address, or these were only brackets. */
  #endWords(char: string): void {
    while (this.#spans.at(-1)?.tag !== "a") this.#unwrapSpan();
    if (char === "(") {
      this.#address = { text: "", depth: 0, title: false };
      return;
    }
    this.#unwrapSpan("]");
    this.#before = "]";
    this.#plain(char);
  }

  #inAddress(char: string): void {
    const address = this.#address as { text: string; depth: number; title: boolean };
    const ends = char === ")" && address.depth === 0;
    const broken = char === "\n" || address.text.length >= MAX_ADDRESS;
    if (!ends && !broken) {
      if (char === "(") address.depth++;
      if (char === ")") address.depth--;
      address.text += char;
      return;
    }
    this.#address = null;
    const words = /^\s*(\S+)(?:\s+"[^"]*"|\s+'[^']*')?\s*$/.exec(address.text);
    const href = ends && words ? safeHref((words[1] as string).replace(/^<(.*)>$/, "$1"), this.#base) : null;
    if (href !== null) {
      this.#flush();
      this.#sink.link(href);
      this.#closeSpan();
      this.#before = ")";
      return;
    }
    this.#unwrapSpan(`](${address.text}${ends ? ")" : ""}`);
    this.#before = ")";
    if (!ends) this.#plain(char);
  }

  /** What was held is the whole of `http://`, or was an `h` like any other. */
  #endBareStart(char: string): void {
    const held = this.#held;
    this.#held = "";
    if (
      BARE.includes(held) &&
      /[\p{L}\p{N}[]/u.test(char) &&
      this.#openSpan({ tag: "a", mark: "", bare: true })
    ) {
      this.#bare = "";
      this.#inBare(held + char);
    } else this.#again(held, char);
  }

  #inBare(text: string): void {
    const char = text.charAt(text.length - 1);
    if (/[\s<>"`*]/.test(char) || this.#bare.length > MAX_ADDRESS) {
      this.#endBare();
      this.#plain(char);
    } else if (/[.,;:!?'()\]]/.test(char)) this.#tail += text;
    else {
      this.#bare += this.#tail + text;
      this.#text += this.#tail + text;
      this.#tail = "";
    }
  }

  /** The punctuation behind an address belongs to the sentence. */
  #endBare(): void {
    const tail = this.#tail;
    this.#tail = "";
    const href = safeHref(this.#bare, this.#base);
    this.#flush();
    if (href === null) this.#unwrapSpan();
    else {
      this.#sink.link(href);
      this.#closeSpan();
    }
    this.#say(tail);
  }

  // --- ends -------------------------------------------------------------------------------------

  #endLine(): void {
    this.#inLine = this.#continued = false;
    this.#before = "\n";
    if (this.#leaf === "heading") this.#endBlock();
  }

  /** Decide what is held as if a line ended here. */
  #settleHeld(): void {
    if (this.#address !== null) this.#inAddress("\n");
    else if (this.#held !== "") this.#decide("\n");
    if (this.#spans.at(-1)?.bare) this.#endBare();
  }

  #endBlock(): void {
    if (this.#leaf === "code") {
      this.#closeCode();
    } else if (this.#leaf !== "none") {
      this.#leaf = "paragraph"; // that an end of line, which settles what is held, ends nothing else
      this.#settleHeld();
      while (this.#spans.length > 0) this.#unwrapSpan();
      this.#close();
    }
    this.#leaf = "none";
    this.#inLine = false;
  }

  #closeContainers(keep: number): void {
    if (this.#lists.length > keep || (keep === 0 && this.#quoted)) this.#endBlock();
    while (this.#lists.length > keep) {
      this.#close();
      this.#close();
      this.#lists.pop();
    }
    if (keep === 0 && this.#quoted && !this.#continued) {
      this.#close();
      this.#quoted = false;
    }
  }

  #openSpan(span: Span): boolean {
    if (this.#spans.length >= MAX_DEPTH) return false;
    this.#open(span.tag);
    this.#spans.push(span);
    return true;
  }

  #closeSpan(): void {
    this.#spans.pop();
    this.#close();
  }

  #unwrapSpan(after = ""): void {
    const span = this.#spans.pop() as Span;
    this.#flush();
    this.#sink.unwrap(span.mark, after);
  }

  #open(tag: Tag): void {
    this.#flush();
    this.#sink.open(tag);
  }

  #close(): void {
    this.#flush();
    this.#sink.close();
  }

  #flush(): void {
    if (this.#text !== "") this.#sink.text(this.#text);
    this.#text = "";
  }
}

function columns(blanks: string): number {
  let column = 0;
  for (const char of blanks) column = char === "\t" ? column + 4 - (column % 4) : column + 1;
  return column;
}

function isFence(text: string): boolean {
  return text === "```" || text === "~~~";
}

function isRule(mark: string): boolean {
  const marks = mark.replaceAll(" ", "");
  return marks.length >= 3 && "-*_".includes(marks.charAt(0));
}

function unindented(text: string, indent: number): string {
  let at = 0;
  while (at < indent && text.charAt(at) === " ") at++;
  return text.slice(at);
}
