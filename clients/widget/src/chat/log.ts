// The messages: what was said, what is being written, and what has not been sent yet.
//
// They lie in groups that a browser lays out and paints only near where somebody looks (content-visibility), so
// that a long conversation costs what is seen of it, and stays whole for find-in-page and screen readers.

import type { Message } from "parley-client";
import { Tree } from "../markdown/dom.js";
import { Markdown, safeHref } from "../markdown/parser.js";
import { type Announcer, Speech } from "./announcer.js";
import { make, shown } from "./dom.js";
import type { Words } from "./words.js";

const GROUP = 20;
const NEAR_END = 60;
const NEAR_TOP = "600px 0px 0px 0px";

interface Writing {
  element: HTMLElement;
  markdown: Markdown;
  speech: Speech;
  text: string;
  /** What has come and is not shown yet: pieces are shown once a frame, however many come. */
  waiting: string;
}

/** What the list asks of the chat. */
export interface LogEvents {
  press(payload: string): void;
  earlier(byHand: boolean): void;
}

export class Log {
  readonly element: HTMLElement;
  readonly #log: HTMLElement;
  readonly #writing = make("div", { className: "writing" });
  readonly #unsent = make("div", { className: "unsent" });
  readonly #working: HTMLElement;
  readonly #empty: HTMLElement;
  readonly #others: HTMLElement;
  readonly #earlier: HTMLButtonElement;
  readonly #newest: HTMLButtonElement;
  readonly #known = new Map<string, HTMLElement>(); // message id -> element
  readonly #streams = new Map<string, Writing>();
  readonly #pending = new Map<string, HTMLElement>(); // command key -> element
  readonly #titles = new Map<string, string>(); // payload -> title, of the buttons that were offered
  readonly #watcher: IntersectionObserver;
  readonly #sizes: ResizeObserver;
  #offered: HTMLElement | null = null;
  #said: HTMLElement | undefined; // in an open form
  #atEnd = true;
  #top = 0; // how far it was scrolled
  #frame = 0;

  constructor(
    private readonly words: Words,
    private readonly announcer: Announcer,
    private readonly events: LogEvents,
    requests: HTMLElement,
  ) {
    this.#log = make("div", {
      className: "log",
      attributes: { role: "log", "aria-live": "off", "aria-label": words.log },
    });
    this.#empty = make("p", { className: "empty", hidden: true, dir: "auto", part: "empty" }, words.empty);
    this.#others = make(
      "p",
      { className: "others", hidden: true, dir: "auto", attributes: { role: "status" } },
      words.others,
    );
    this.#earlier = make(
      "button",
      { type: "button", className: "plain earlier", hidden: true, onclick: () => events.earlier(true) },
      words.earlier,
    );
    const dots = make(
      "span",
      { className: "dots", attributes: { "aria-hidden": "true" } },
      make("i"),
      make("i"),
      make("i"),
    );
    this.#working = make(
      "p",
      { className: "working", hidden: true, part: "typing" },
      make("span", { className: "unseen" }, words.working),
      dots,
    );
    this.element = make(
      "div",
      {
        className: "scroll",
        tabIndex: 0,
        part: "messages",
        attributes: { role: "region", "aria-label": words.log },
      },
      this.#earlier,
      this.#empty,
      this.#log,
      this.#writing,
      this.#unsent,
      this.#working,
      this.#others,
      requests,
    );
    this.#newest = make(
      "button",
      { type: "button", className: "newest", hidden: true, onclick: () => this.toEnd() },
      words.newest,
      " ↓",
    );
    this.element.onscroll = () => this.#onScroll();
    this.#watcher = new IntersectionObserver(([entry]) => entry?.isIntersecting && events.earlier(false), {
      root: this.element,
      rootMargin: NEAR_TOP,
    });
    this.#sizes = new ResizeObserver(() => this.#atEnd && this.toEnd());
    for (const part of [this.element, this.#log, this.#writing, this.#unsent, this.#working, requests])
      this.#sizes.observe(part);
  }

  /** The button that leads to the newest messages; it floats above the list. */
  get newest(): HTMLElement {
    return this.#newest;
  }

  /** Show the messages of a snapshot instead of what is there, and what is being written. */
  replace(messages: readonly Message[], partials: Readonly<Record<string, string>>): void {
    this.#log.replaceChildren();
    this.#known.clear();
    this.endWriting();
    for (const message of messages) this.#append(message, this.#element(message, null));
    for (const [id, text] of Object.entries(partials)) this.piece(id, text);
    this.#enableNewest();
    this.toEnd();
  }

  /** Show older messages above, leaving in place what is looked at. */
  prepend(messages: readonly Message[]): void {
    const news = messages.filter((message) => !this.#known.has(message.message_id));
    const anchor = this.#anchor();
    const top = anchor?.getBoundingClientRect().top ?? 0;
    const groups: HTMLElement[] = [];
    for (const message of news) {
      let group = groups.at(-1);
      if (!group || group.children.length >= GROUP) groups.push((group = this.#group()));
      const element = this.#element(message, null);
      this.#known.set(message.message_id, element);
      group.append(element);
    }
    this.#log.prepend(...groups);
    if (anchor) this.element.scrollTop += anchor.getBoundingClientRect().top - top;
    this.#enableNewest();
  }

  /** Show a message that came now; one that is shown already stays as it is. */
  add(message: Message): void {
    if (this.#known.has(message.message_id)) return;
    const stream = this.#streams.get(message.message_id);
    this.#streams.delete(message.message_id);
    if (stream && stream.text === message.text) {
      this.#show(stream);
      stream.markdown.finish();
      stream.speech.end();
      stream.element.classList.remove("partial");
      this.#dress(stream.element, message);
      this.#append(message, stream.element);
    } else {
      stream?.element.remove();
      const speech = message.role === "user" ? null : this.#speech(message.role);
      this.#append(message, this.#element(message, speech));
      speech?.end();
    }
    this.#enableNewest();
    this.#news();
  }

  /** Show a note that no message brought. */
  note(text: string): void {
    this.#last().append(make("p", { className: "note", dir: "auto", part: "note" }, text));
    this.announcer.say(text);
  }

  remove(id: string): void {
    this.#known.get(id)?.remove();
    this.#known.delete(id);
    this.#streams.get(id)?.element.remove();
    this.#streams.delete(id);
    this.#enableNewest();
  }

  /** Take a piece of a message that is being written. */
  piece(id: string, text: string): void {
    if (this.#known.has(id)) return;
    let stream = this.#streams.get(id);
    if (!stream) {
      const element = this.#bubble("assistant");
      element.classList.add("partial");
      const speech = this.#speech("assistant");
      const tree = new Tree(element.querySelector(".text") as Element, (words) => speech.take(words));
      stream = { element, markdown: new Markdown(tree, document.baseURI), speech, text: "", waiting: "" };
      this.#streams.set(id, stream);
      this.#writing.append(element);
    }
    stream.text += text;
    stream.waiting += text;
    this.#frame ||= soon(() => {
      this.#frame = 0;
      for (const each of this.#streams.values()) this.#show(each);
    });
  }

  /** The turn is over: what was begun and never finished will not be. */
  endWriting(): void {
    this.#streams.clear();
    this.#writing.replaceChildren();
  }

  /** Show what is on its way to the server. */
  send(key: string, text: string | null, payload: string | null): void {
    const element = this.#bubble("user", text ?? this.titleOf(payload));
    element.append(make("span", { className: "hint" }));
    this.#pending.set(key, element);
    this.#unsent.append(element);
    this.toEnd();
  }

  /** Say beside what is on its way how it fares. */
  fares(words: string): void {
    for (const element of this.#pending.values()) {
      const hint = element.lastElementChild as Element;
      if (hint.textContent !== words) hint.textContent = words;
    }
  }

  /** It has arrived, or will not; the message itself comes as an event. */
  sent(key: string): void {
    this.#pending.get(key)?.remove();
    this.#pending.delete(key);
  }

  /** Somebody or something is at work. */
  working(working: boolean): void {
    this.#working.hidden = !working || this.#streams.size > 0;
  }

  /** Whether there may be more above, and whether there is nothing at all. */
  reach(before: number | null, live: boolean): void {
    const more = before !== null;
    if (this.#earlier.hidden === more) {
      this.#earlier.hidden = !more;
      this.watch(more);
    }
    this.#empty.hidden = more || !live || this.#known.size + this.#pending.size + this.#streams.size > 0;
  }

  /** Look (again) whether somebody is near the top. */
  watch(on: boolean): void {
    this.#watcher.unobserve(this.#earlier);
    if (on) this.#watcher.observe(this.#earlier);
  }

  /** Whether a form asks, which the buttons of the newest message would say twice; and the message that says the same. */
  asking(asks: boolean, id: string | undefined): void {
    this.element.classList.toggle("asking", asks);
    const said = id === undefined ? undefined : this.#known.get(id);
    if (said !== this.#said) {
      if (this.#said) this.#said.hidden = false;
      if (said) said.hidden = true;
      this.#said = said;
    }
  }

  /** Whether somebody else has to decide. */
  others(waits: boolean): void {
    this.#others.hidden = !waits;
  }

  /** Show the newest. */
  toEnd(): void {
    this.#atEnd = true;
    this.#newest.hidden = true;
    this.element.scrollTop = this.element.scrollHeight;
  }

  /** Let go of everything. */
  end(): void {
    this.#watcher.disconnect();
    this.#sizes.disconnect();
  }

  /** What is called for a payload: the button's title. */
  titleOf(payload: unknown): string {
    return this.#titles.get(String(payload)) ?? shown(payload);
  }

  #show(stream: Writing): void {
    if (stream.waiting === "") return;
    const piece = stream.waiting;
    stream.waiting = "";
    stream.markdown.feed(piece);
    this.#working.hidden = true;
  }

  #speech(role: string): Speech {
    return new Speech((text) => this.announcer.say(text), `${this.#who(role)}: `);
  }

  #who(role: string): string {
    const { you, assistant, agent, note } = this.words;
    return { user: you, assistant, agent }[role] ?? note;
  }

  #element(message: Message, speech: Speech | null): HTMLElement {
    const { role, text, payload } = message;
    const mine = role === "user";
    const element = this.#bubble(role, mine ? (text ?? this.titleOf(payload)) : "");
    const place = element.querySelector(".text") as HTMLElement;
    if (!mine && text) {
      const markdown = new Markdown(
        new Tree(place, speech ? (words) => speech.take(words) : undefined),
        document.baseURI,
      );
      markdown.feed(text);
      markdown.finish();
    }
    place.hidden = !place.hasChildNodes();
    this.#dress(element, message);
    return element;
  }

  /** Put to a bubble what a message has beside its text. */
  #dress(element: HTMLElement, message: Message): void {
    element.dataset.id = message.message_id;
    if (message.type === "error") element.classList.add("error");
    if (message.time) element.title = new Date(message.time).toLocaleString(this.#locale);
    if (message.role !== "user") {
      const card = cardOf(message.payload);
      if (card) element.append(card);
    }
    if (message.buttons.length > 0) element.append(this.#buttons(message.buttons));
  }

  get #locale(): string | undefined {
    return (this.element.closest("[lang]") as HTMLElement | null)?.lang || undefined;
  }

  #bubble(role: string, text = ""): HTMLElement {
    const known = ["user", "assistant", "agent"].includes(role) ? role : "system";
    return make(
      "div",
      { className: `message ${known}`, part: `message message-${known}` },
      make("span", { className: known === "agent" ? "who" : "unseen" }, `${this.#who(known)}: `),
      make("div", { className: "text", part: "text", dir: "auto" }, text),
    );
  }

  #buttons(buttons: Message["buttons"]): HTMLElement {
    const row = make("div", {
      className: "buttons",
      hidden: true,
      part: "quick-replies",
      attributes: { role: "group", "aria-label": this.words.answers },
    });
    for (const { title, payload } of buttons) {
      this.#titles.set(payload, title);
      row.append(
        make(
          "button",
          { type: "button", dir: "auto", part: "quick-reply", onclick: () => this.events.press(payload) },
          title,
        ),
      );
    }
    return row;
  }

  /** Only the newest message's buttons can be pressed: those above were answered, or overtaken. */
  #enableNewest(): void {
    const newest = [...(this.#log.lastElementChild?.children ?? [])].findLast((element) =>
      element.matches(".message"),
    );
    const row = newest?.querySelector<HTMLElement>(".buttons") ?? null;
    if (this.#offered && this.#offered !== row) this.#offered.hidden = true;
    if (row) row.hidden = false;
    this.#offered = row;
  }

  #append(message: Message, element: HTMLElement): void {
    this.#known.set(message.message_id, element);
    this.#last().append(element);
  }

  #last(): HTMLElement {
    let group = this.#log.lastElementChild as HTMLElement | null;
    if (!group || group.children.length >= GROUP) this.#log.append((group = this.#group()));
    return group;
  }

  #group(): HTMLElement {
    return make("div", { className: "group" });
  }

  /** The first message that is seen: what stays where it is while others come above it. */
  #anchor(): Element | null {
    const top = this.element.getBoundingClientRect().top;
    for (const group of this.#log.children) {
      if (group.getBoundingClientRect().bottom <= top) continue;
      for (const message of group.children) if (message.getBoundingClientRect().bottom > top) return message;
    }
    return null;
  }

  #onScroll(): void {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    const near = scrollHeight - scrollTop - clientHeight < NEAR_END;
    // what was added since is no reason to stay behind; only who goes up leaves the end
    if (near) this.#atEnd = true;
    else if (scrollTop < this.#top) this.#atEnd = false;
    this.#top = scrollTop;
    if (near) this.#newest.hidden = true;
  }

  #news(): void {
    if (!this.#atEnd) this.#newest.hidden = false;
  }
}

/** Show a card, `{title, text, url}`: what of it is there. */
function cardOf(payload: unknown): HTMLElement | null {
  if (payload === null || typeof payload !== "object") return null;
  const { title, text, url } = payload as Record<string, unknown>;
  if (typeof title !== "string") return null;
  const href = typeof url === "string" ? safeHref(url, document.baseURI) : null;
  const heading = href
    ? make("a", { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" }, title)
    : title;
  const card = make(
    "div",
    { className: "card", part: "card" },
    make("p", { className: "heading", dir: "auto" }, heading),
  );
  if (typeof text === "string") card.append(make("p", { dir: "auto" }, text));
  return card;
}

/** Once a frame; a page in the background has none. */
function soon(act: () => void): number {
  return document.visibilityState === "visible"
    ? requestAnimationFrame(act)
    : (setTimeout(act, 50) as unknown as number);
}
