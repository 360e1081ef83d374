// The launcher: `<parley-chat>`, its button and badge. The chat part is loaded when it is needed: when somebody
// opens it, or when a conversation was begun here before and may have news.

import { begun, type ChatModule, type Host, type Mounted, scopeOf, type TokenSource } from "../host.js";
import css from "./launcher.css";
import { isRightToLeft, launcherWords } from "./words.js";

/** The chat part's file beside this one, put here by the build. */
declare const CHAT: string;

const SVG = "http://www.w3.org/2000/svg";
const ICON =
  "M4 5.5A2.5 2.5 0 0 1 6.5 3h11A2.5 2.5 0 0 1 20 5.5v8a2.5 2.5 0 0 1-2.5 2.5H11l-4.6 3.9c-.6.5-1.4.1-1.4-.7V15.7a2.5 2.5 0 0 1-1-2.2z";
const CROSS = "M6 6l12 12M18 6L6 18";
const PROPERTIES = ["token", "strings"] as const;

let sheet: CSSStyleSheet | undefined;

function icon(path: string): SVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("d", path);
  svg.append(drawn);
  return svg;
}

/** `<parley-chat>`; its attributes, properties, methods and events are in docs/reference/widget.md. */
export class ParleyChat extends HTMLElement {
  static readonly observedAttributes = [
    "flow",
    "key",
    "server",
    "conversation",
    "locale",
    "heading",
    "inline",
    "open",
  ];

  #token: TokenSource | undefined;
  #strings: Partial<Record<string, string>> = {};
  #root = this.attachShadow({ mode: "open" });
  #frame = document.createElement("div");
  #button = document.createElement("button");
  #badge = document.createElement("span");
  #chat: Mounted | null = null;
  #loading: Promise<Mounted> | null = null;
  #tries = 0;
  #unread = 0;
  #failed = false;
  #shown = false; // as the page was told
  #begins = 0; // grows with each beginning, so that what was loaded for an earlier one is let go

  constructor() {
    super();
    sheet ??= new CSSStyleSheet();
    if (sheet.cssRules.length === 0) sheet.replaceSync(css);
    this.#root.adoptedStyleSheets = [sheet];
    this.#frame.className = "frame";
    this.#button.type = "button";
    this.#button.className = "launcher";
    this.#button.part.add("launcher");
    this.#badge.className = "badge";
    this.#badge.part.add("badge");
    this.#badge.setAttribute("aria-hidden", "true");
    this.#badge.hidden = true;
    this.#button.append(icon(ICON), icon(CROSS), this.#badge);
    this.#button.onclick = () => (this.isOpen ? this.close() : this.open());
    this.#button.onpointerenter = () => void this.#module().catch(() => {});
    this.#frame.append(this.#button);
    this.#root.append(this.#frame);
  }

  /** Whether the panel is shown. */
  get isOpen(): boolean {
    return this.hasAttribute("open") || this.#inline;
  }

  /** How many messages have come that nobody has seen. */
  get unread(): number {
    return this.#unread;
  }

  /** A token or a function that fetches one, for people whom the page knows; undefined: a visitor. */
  get token(): TokenSource | undefined {
    return this.#token;
  }

  set token(token: TokenSource | undefined) {
    this.#token = token;
    this.#begin();
  }

  /** Words of one's own in place of the widget's, by name. */
  get strings(): Partial<Record<string, string>> {
    return this.#strings;
  }

  set strings(strings: Partial<Record<string, string>>) {
    this.#strings = { ...strings };
    this.#begin();
  }

  /** Show the panel. Resolves when it is there. */
  async open(): Promise<void> {
    this.#failed = false;
    this.setAttribute("open", "");
    await this.#load(true).catch(() => {});
  }

  /** Hide the panel. The conversation goes on. */
  close(): void {
    this.removeAttribute("open");
  }

  toggle(): void {
    if (this.isOpen) this.close();
    else void this.open();
  }

  /** Say something as if the person had typed it; the panel need not be open. Resolves with its turn. */
  async send(text: string): Promise<void> {
    await (await this.#load()).send(text);
  }

  /** Begin another conversation. */
  async restart(): Promise<void> {
    (await this.#load()).restart();
  }

  connectedCallback(): void {
    for (const name of PROPERTIES) this.#upgrade(name);
    this.#begin();
  }

  disconnectedCallback(): void {
    queueMicrotask(() => {
      if (this.isConnected) return; // it was only moved
      this.#end();
      this.#shown = false;
    });
  }

  attributeChangedCallback(name: string, before: string | null, after: string | null): void {
    if (before === after || !this.isConnected) return;
    if (name !== "open") this.#begin();
    else if (after === null) this.#hide();
    else {
      this.#label();
      void this.#load(true).catch(() => {});
    }
  }

  get #inline(): boolean {
    return this.hasAttribute("inline");
  }

  get #locale(): string {
    return (
      this.getAttribute("locale") ?? (this.closest("[lang]")?.getAttribute("lang") || navigator.language)
    );
  }

  get #server(): string {
    return new URL(
      this.getAttribute("server") ?? "/",
      new URL(this.hasAttribute("server") ? document.baseURI : import.meta.url),
    ).origin;
  }

  /** Take over what was set before the element had its class. */
  #upgrade(name: (typeof PROPERTIES)[number]): void {
    if (!Object.hasOwn(this, name)) return;
    const value = this[name];
    delete (this as Partial<this>)[name];
    Object.assign(this, { [name]: value });
  }

  #begin(): void {
    if (!this.isConnected) return;
    this.#end();
    this.#frame.dir = isRightToLeft(this.#locale) ? "rtl" : "ltr";
    this.#frame.lang = this.#locale;
    this.#label();
    if (this.isOpen) void this.#load().catch(() => {});
    else if (this.#wasHere()) whenIdle(() => !this.#chat && void this.#load().catch(() => {}));
  }

  #end(): void {
    this.#begins++;
    this.#chat?.end();
    this.#chat = this.#loading = null;
    this.#tell(0);
  }

  #wasHere(): boolean {
    try {
      return this.getAttribute("conversation") !== null || localStorage.getItem(begun(this.#scope)) !== null;
    } catch {
      return false; // a browser that keeps nothing
    }
  }

  get #scope(): string {
    return scopeOf(this.#server, this.getAttribute("key"), this.getAttribute("flow"));
  }

  /** The chat part; one that could not be loaded is asked for under another address, as a failure is remembered. */
  #module(): Promise<ChatModule> {
    const url = new URL(CHAT, import.meta.url);
    if (this.#tries > 0) url.searchParams.set("try", String(this.#tries));
    return import(url.href);
  }

  #load(focus = false): Promise<Mounted> {
    const begins = this.#begins;
    this.#loading ??= this.#module()
      .then((module) => module.mount(this.#host()))
      .then(
        (chat) => {
          if (begins === this.#begins) this.#chat = chat;
          else chat.end(); // begun anew, or taken away, meanwhile
          return chat;
        },
        (error: unknown) => {
          this.#tries++;
          this.#loading = null;
          this.#failed = true;
          if (!this.#inline) this.removeAttribute("open");
          this.#label();
          throw error;
        },
      );
    return this.#loading.then((chat) => {
      if (this.isOpen && chat === this.#chat) {
        chat.opened(focus);
        this.#show(true);
      }
      return chat;
    });
  }

  #host(): Host {
    return {
      element: this,
      root: this.#root,
      frame: this.#frame,
      server: this.#server,
      locale: this.#locale,
      strings: this.#strings,
      token: this.#token,
      scope: this.#scope,
      attribute: (name) => this.getAttribute(name),
      close: () => this.close(),
      unread: (count) => this.#tell(count),
    };
  }

  #hide(): void {
    const focused = this.#root.activeElement !== null; // else the focus is the page's, and stays where it is
    this.#chat?.closed();
    this.#label();
    if (focused) this.#button.focus({ preventScroll: true });
    this.#show(false);
  }

  /** Tell the page that it has opened or closed, once each time. */
  #show(shown: boolean): void {
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#emit(shown ? "parley-open" : "parley-close");
  }

  #tell(count: number): void {
    if (count === this.#unread) return;
    this.#unread = count;
    this.#label();
    this.#emit("parley-unread", { count });
  }

  #label(): void {
    const words = launcherWords(this.#locale, this.#strings);
    const unread = this.#unread > 0 ? `, ${words.unread.replace("{n}", String(this.#unread))}` : "";
    const label = this.isOpen ? words.close : this.#failed ? words.failed : words.open + unread;
    this.#button.setAttribute("aria-label", label);
    this.#button.setAttribute("aria-expanded", String(this.isOpen));
    this.#button.title = this.#failed ? label : "";
    this.#button.classList.toggle("failed", this.#failed);
    this.#badge.hidden = !this.#failed && (this.#unread === 0 || this.isOpen);
    this.#badge.textContent = this.#failed ? "!" : this.#unread > 99 ? "99+" : String(this.#unread);
  }

  #emit(name: string, detail: object = {}): void {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }
}

function whenIdle(act: () => void): void {
  if ("requestIdleCallback" in globalThis) requestIdleCallback(act);
  else setTimeout(act, 200);
}

if (!customElements.get("parley-chat")) customElements.define("parley-chat", ParleyChat);
