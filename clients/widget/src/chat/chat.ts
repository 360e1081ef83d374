// The chat part: one conversation, what is seen of it, and what the person does. The SDK holds the connection.

import {
  type AnyEvent,
  browserOutbox,
  type ConnectionEvent,
  type Conversation,
  type KeptCommand,
  type Message,
  type OutboxStore,
  Parley,
  ParleyError,
} from "parley-client";
import type { Host, Mounted } from "../host.js";
import { languageOf } from "../launcher/words.js";
import { Announcer } from "./announcer.js";
import css from "./chat.css";
import { explained } from "./dom.js";
import { Log } from "./log.js";
import { type LinkState, Panel } from "./panel.js";
import { type Decision, Requests } from "./requests.js";
import { Store } from "./store.js";
import { blocked, Trouble, Visitor } from "./visitor.js";
import { filled, type Others, type Words, wordsOf } from "./words.js";

/** Put here by the build. */
declare const VERSION: string;
declare const OTHERS: string;

const PAGE = 100;
const TYPING_MS = 3_000; // who types says so once in this time
const TYPED_MS = 7_000; // who has not said so for this long types no more, whether that was said or lost
/** Under this name a message's metadata carries its key, so that it is known again in a snapshot. */
const KEY = "client_key";

let sheet: CSSStyleSheet | undefined;

interface Sent {
  text: string | null;
  /** It is a message, and shown until it comes back as one. */
  message: boolean;
  /** The request that it decides. */
  pending: string | null;
  /** The outbox has it: the server has not told yet that it has it. */
  kept?: boolean;
  /** An earlier page, or an earlier connection of this one, sent it: nobody here waits for its outcome. */
  left?: boolean;
}

/** What a command in the outbox has that concerns people. */
interface LeftCommand {
  conversation_id: string;
  idempotency_key: string;
  content?: { text?: string | null; payload?: string | null };
}

class Chat implements Mounted {
  readonly #host: Host;
  readonly #words: Words;
  readonly #store: Store;
  readonly #visitor: Visitor;
  readonly #announcer = new Announcer();
  readonly #requests: Requests;
  readonly #log: Log;
  readonly #panel: Panel;
  #parley!: Parley;
  #chat!: Conversation;
  #open = false;
  #ended = false;
  #unhear = () => {};
  #link: LinkState = "connecting";
  #fresh = false; // the last token is no longer taken
  #strange = false;
  #ready = false;
  #before: number | null = null;
  #asking = false;
  #typing = false; // somebody else does
  #typist: ReturnType<typeof setTimeout> | undefined;
  #told = 0; // when the others were last told that this person types; 0: that they do not
  #seen: { epoch: string | null; offset: number };
  #unread = 0;
  readonly #sent = new Map<string, Sent>();
  readonly #stopListening = new AbortController();

  constructor(host: Host, words: Words) {
    this.#host = host;
    this.#words = words;
    this.#store = new Store(host.scope);
    this.#visitor = new Visitor(
      host.server,
      host.attribute("key"),
      new Store(["parley", new URL(host.server).host, host.attribute("key")?.slice(0, 16) ?? ""].join(".")),
    );
    this.#requests = new Requests(
      this.#words,
      host.locale,
      this.#announcer,
      (decision) => this.#decide(decision),
      () => this.#panel.focus(),
    );
    this.#log = new Log(
      this.#words,
      this.#announcer,
      { press: (payload) => this.#press(payload), earlier: (byHand) => void this.#earlier(byHand) },
      this.#requests.element,
    );
    const events = {
      close: () => host.close(),
      restart: () => this.restart(),
      retry: () => this.#again(),
      say: (text: string) => void this.#say(text, null).catch(() => {}),
      typing: (typing: boolean) => this.#tellTyping(typing),
    };
    const heading = host.attribute("heading") ?? this.#words.heading;
    this.#panel = new Panel(
      this.#words,
      heading,
      this.#inline,
      [this.#log.element, this.#log.newest, this.#announcer.element],
      events,
    );
    sheet ??= new CSSStyleSheet();
    if (sheet.cssRules.length === 0) sheet.replaceSync(css);
    if (!host.root.adoptedStyleSheets.includes(sheet)) host.root.adoptedStyleSheets.push(sheet);
    host.frame.append(this.#panel.element);
    this.#seen = this.#store.read("seen") ?? { epoch: null, offset: 0 };
    const { signal } = this.#stopListening;
    for (const name of ["online", "offline"]) addEventListener(name, () => this.#show(), { signal });
    addEventListener("visibilitychange", () => this.#see(), { signal });
    this.#connect();
  }

  // --- what the launcher asks -------------------------------------------------------------------

  opened(focus: boolean): void {
    this.#open = true;
    this.#panel.show(this.#inline);
    this.#log.toEnd();
    this.#log.watch(this.#before !== null);
    if (focus) this.#panel.focus();
    this.#see();
  }

  closed(): void {
    this.#open = false;
    this.#panel.hide();
  }

  async send(text: string): Promise<void> {
    await this.#say(text, null);
  }

  restart(): void {
    this.#begin();
    this.#panel.focus();
  }

  end(): void {
    this.#ended = true;
    this.#stopListening.abort();
    this.#requests.end();
    this.#log.end();
    this.#leave();
    this.#panel.element.remove();
  }

  // --- the connection ---------------------------------------------------------------------------

  get #inline(): boolean {
    return this.#host.attribute("inline") !== null;
  }

  get #conversationId(): string {
    const fixed = this.#host.attribute("conversation");
    if (fixed) return fixed;
    const kept = this.#store.read<string>("conversation");
    if (typeof kept === "string" && kept) return kept;
    const made = newId();
    this.#store.write("conversation", made);
    return made;
  }

  #connect(): void {
    const { server, locale, token } = this.#host;
    this.#ready = false;
    const outbox = this.#outbox();
    const parley = new Parley(server, {
      token: () => this.#token(token),
      locale,
      timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      ...(outbox ? { outbox } : {}),
    });
    this.#parley = parley;
    const flow = this.#host.attribute("flow");
    const chat = parley.conversation(this.#conversationId, flow ? { flowId: flow } : {});
    this.#chat = chat;
    this.#unhear = parley.on("connection", (event) => this.#onConnection(event));
    chat.on("event", (event) => {
      if (chat !== this.#chat || this.#ended) return;
      this.#onEvent(event);
      this.#show();
    });
    this.#show();
  }

  /** Close the connection; that it ends for good is no news then. */
  #leave(): void {
    this.#unhear();
    void this.#parley.close();
  }

  /** Enter the conversation of now, which is another one than before. */
  #begin(): void {
    if (!this.#host.attribute("conversation")) this.#store.write("conversation", newId());
    this.#leave();
    for (const key of this.#sent.keys()) this.#log.sent(key);
    this.#sent.clear();
    this.#seen = { epoch: null, offset: 0 };
    this.#store.drop("seen");
    this.#log.replace([], {});
    this.#requests.show([], {});
    this.#before = null;
    this.#typing = false;
    this.#count(0);
    this.#panel.trouble(null);
    this.#connect();
  }

  /** A person wants it: try at once. */
  #again(): void {
    this.#panel.trouble(null);
    this.#link = "connecting";
    this.#leave();
    this.#show();
    this.#panel.focus();
    setTimeout(() => this.#ended || this.#connect()); // once the outbox has been let go of
  }

  async #token(given: Host["token"]): Promise<string> {
    const fresh = this.#fresh;
    this.#fresh = true; // until a connection stands, the next question means that this one was not taken
    if (given === undefined) return this.#visitor.token(fresh).catch((error) => this.#noToken(error));
    return typeof given === "function" ? given(fresh) : given;
  }

  /** Let the SDK give up where trying again is in vain. */
  #noToken(error: unknown): never {
    if (error instanceof Trouble) {
      this.#panel.trouble(error.message, true);
      if (error.final) throw new ParleyError(error.message, { code: error.code, cause: error });
    }
    throw error;
  }

  #onConnection(event: ConnectionEvent): void {
    const { state, error } = event;
    if (state === "connected") {
      this.#link = "live";
      this.#fresh = this.#strange = false;
      this.#panel.trouble(null);
    } else if (state === "connecting") {
      if (this.#link !== "lost") this.#link = "connecting";
    } else if (state === "disconnected") {
      this.#link = "lost";
      if (event.code === 4002) this.#fresh = true;
    } else if (state === "closed") this.#onClosed(event);
    else if (error instanceof ParleyError) this.#panel.trouble(explained(error));
    this.#show();
    this.#emit("parley-connection", { state: this.#link, code: event.code, reason: event.reason });
  }

  #onClosed({ code, reason, error }: ConnectionEvent): void {
    const why = error instanceof ParleyError ? error.code : "";
    const stranger =
      why === "stranger" || (why === "unauthorized" && this.#host.token === undefined && this.#visitor.known);
    if (stranger && !this.#strange) {
      this.#strange = true; // once; a server that refuses its own fresh token is not asked for ever
      this.#visitor.forget();
      queueMicrotask(() => {
        this.#begin();
        this.#log.note(this.#words.gone);
      });
      return;
    }
    this.#link = "stopped";
    const origin = code === 4507 || why === "origin_not_allowed";
    const token =
      why === "unauthorized" && this.#host.token !== undefined
        ? " The token comes from the page (element.token): sign it with the server's secret."
        : "";
    const told = error instanceof ParleyError ? explained(error) : reason;
    this.#panel.trouble((origin ? blocked(this.#host.server) : told || `${code}`) + token, true);
    this.#emit("parley-error", { code: why || String(code), message: told });
  }

  // --- what happens in the conversation ---------------------------------------------------------

  #onEvent(event: AnyEvent): void {
    const { type } = event;
    if (type === "snapshot") this.#onSnapshot();
    else if (type === "message.delta") this.#log.piece(event.message_id, event.delta);
    else if (type === "message.received" || type === "message.completed") {
      const { message } = event;
      this.#arrived(String(message.metadata[KEY] ?? event.command_id));
      this.#log.add(message);
      if (message.role !== "user") this.#news(message.offset ?? event.offset ?? 0);
      this.#emit("parley-message", { message });
    } else if (type === "message.retracted") this.#log.remove(event.message_id);
    else if (type === "typing") this.#onTyping(event.user_id, event.typing);
    else if (type === "unsubscribed") this.#onGone(event.error);
    else if (type === "flow.custom")
      this.#emit("parley-custom", { name: event.name, payload: event.payload });
    else if (type === "handoff.requested") this.#log.note(this.#words.handoff);
    else if (type === "conversation.reset") {
      this.#log.replace([], {});
      this.#log.note(this.#words.fresh);
    } else if (type === "turn.completed" || type === "turn.failed") {
      this.#log.endWriting();
      if (event.command_id) this.#arrived(event.command_id);
      if (type === "turn.failed")
        this.#log.note(filled(this.#words.failure, { why: explained(event.error) }));
    } else if (type === "pending.resolved" || type === "pending.expired") this.#onSettled(event);
  }

  #onTyping(who: string, typing: boolean): void {
    if (who === this.#parley.principal?.user_id) return; // this very person, in another tab
    clearTimeout(this.#typist);
    this.#typing = typing;
    if (typing) this.#typist = setTimeout(() => this.#quiet(), TYPED_MS);
  }

  #quiet(): void {
    this.#typing = false;
    this.#show();
  }

  #onSettled({
    type,
    kind,
    decided,
    command_id,
  }: Extract<AnyEvent, { type: "pending.resolved" | "pending.expired" }>): void {
    const { accepted, rejected, answered, closed, over } = this.#words;
    if (command_id && this.#sent.has(command_id)) return; // this person did it, and sees what follows
    const outcome =
      kind === "acceptance"
        ? decided.accepted === true
          ? accepted
          : decided.accepted === false
            ? rejected
            : closed
        : decided.answers
          ? answered
          : closed;
    this.#log.note(type === "pending.expired" ? `${over} ${outcome}.` : `${outcome}.`);
  }

  #onSnapshot(): void {
    const { messages, before, partials, epoch } = this.#chat.snapshot;
    for (const message of messages) this.#arrived(String(message.metadata[KEY]));
    this.#before = before;
    this.#log.replace(messages, partials);
    this.#ready = true;
    if (this.#seen.epoch !== epoch)
      this.#seen = { epoch, offset: this.#seen.epoch === null ? this.#chat.cursor.offset : 0 };
    this.#unread = messages.filter(
      (message) => message.role !== "user" && (message.offset ?? 0) > this.#seen.offset,
    ).length;
    this.#see();
  }

  #onGone(error: ParleyError): void {
    if (this.#host.attribute("conversation")) {
      this.#link = "stopped";
      this.#leave(); // a connection that comes back would not show this one
      this.#panel.trouble(
        `The server ended the conversation. ${explained(error)} Its id is fixed by the page (conversation="...").`,
        true,
      );
    } else if (error.code === "conversation_not_found") {
      this.#begin();
      this.#log.note(this.#words.gone);
    }
  }

  async #earlier(byHand: boolean): Promise<void> {
    const [chat, before] = [this.#chat, this.#before];
    if (before === null || this.#asking || !this.#open) return;
    this.#asking = true;
    try {
      const page = await chat.history({ before, limit: PAGE });
      if (chat !== this.#chat) return;
      this.#before = page.before;
      this.#log.prepend(page.messages);
      if (byHand) this.#announcer.say(filled(this.#words.shown, { n: page.messages.length }));
      this.#log.watch(this.#before !== null);
    } catch (error) {
      if (chat === this.#chat && error instanceof ParleyError) this.#panel.trouble(explained(error));
    } finally {
      this.#asking = false;
      this.#show();
    }
  }

  // --- what the person does ---------------------------------------------------------------------

  #press(payload: string): void {
    this.#say(null, payload).catch(() => {}); // told beside the composer
    this.#panel.focus();
  }

  #say(text: string | null, payload: string | null): Promise<void> {
    const key = newId();
    const options = {
      idempotencyKey: key,
      metadata: { [KEY]: key },
      ...(payload === null ? {} : { payload }),
    };
    return this.#run(key, { text, message: true, pending: null }, payload, () =>
      this.#chat.ask({ ...options, ...(text === null ? {} : { text }) }),
    );
  }

  #decide(decision: Decision): void {
    const { pending } = decision;
    const key = newId();
    const options = { idempotencyKey: key };
    const commented = "comment" in decision && decision.comment !== null ? { comment: decision.comment } : {};
    this.#requests.busy(pending.pending_id, true);
    const sent = { text: null, message: false, pending: pending.pending_id };
    const decided = this.#run(key, sent, null, async () => {
      if ("answers" in decision) await this.#chat.answer(pending, decision.answers, options);
      else if (decision.accepted)
        await this.#chat.accept(pending, { ...options, ...commented, edits: decision.edits });
      else await this.#chat.reject(pending, { ...options, ...commented });
    });
    decided.catch(() => {}); // told beside the request
  }

  /** Have a command run, and show how it fares. Ends with its turn; throws what refused it. */
  async #run(key: string, sent: Sent, payload: string | null, act: () => Promise<unknown>): Promise<void> {
    if (this.#link !== "stopped") this.#panel.trouble(null);
    this.#sent.set(key, sent);
    if (sent.message) this.#log.send(key, sent.text, payload);
    this.#show();
    const chat = this.#chat;
    const finish = (error: unknown) =>
      !this.#ended && chat === this.#chat && this.#finished(key, sent, error);
    try {
      await act();
      finish(null);
    } catch (error) {
      finish(error);
      throw error;
    }
  }

  #finished(key: string, sent: Sent, error: unknown): void {
    if (error !== null && sent.kept) {
      sent.left = true; // the connection has ended, and the outbox has it for the next one
      return;
    }
    this.#arrived(key);
    this.#sent.delete(key);
    const failed = error instanceof ParleyError && error.code !== "turn_failed" ? error : null;
    if (sent.pending) this.#requests.busy(sent.pending, false, failed);
    if (failed) {
      const shown = sent.pending && this.#chat.pending().some(({ pending_id: id }) => id === sent.pending);
      if (!shown && this.#link !== "stopped") this.#panel.trouble(explained(failed));
      if (sent.text) this.#panel.giveBack(sent.text);
    }
    this.#show();
  }

  /** A message that was on its way has come back as one, or its turn is over. */
  #arrived(key: string): void {
    const sent = this.#sent.get(key);
    if (!sent?.message) return;
    this.#log.sent(key);
    sent.message = false;
    if (sent.left) this.#sent.delete(key);
  }

  #tellTyping(typing: boolean): void {
    const now = Date.now();
    if (typing ? now - this.#told < TYPING_MS : this.#told === 0) return;
    if (this.#link !== "live" || this.#chat.snapshot.epoch === null) return;
    this.#told = typing ? now : 0;
    this.#chat.typing(typing);
  }

  /** The SDK's outbox in this browser; what an earlier page left in it is shown as being on its way. */
  #outbox(): OutboxStore | undefined {
    const kept = browserOutbox(this.#host.scope);
    if (!kept) return undefined;
    return {
      open: async (url: string) => {
        const left = await kept.open(url);
        for (const command of left) this.#left(command);
        return left;
      },
      keep: (command: KeptCommand) => {
        kept.keep(command);
        const sent = this.#sent.get(String(command.frame["idempotency_key"]));
        if (sent) sent.kept = true;
      },
      release: (conversationId: string, key: string) => {
        kept.release(conversationId, key);
        this.#released(key);
      },
      close: () => kept.close(),
    };
  }

  /** The server has it. What this page sent is settled by its promise; what an earlier one sent, by its turn. */
  #released(key: string): void {
    const sent = this.#sent.get(key);
    if (!sent) return;
    sent.kept = false;
    if (sent.left && !sent.message) this.#sent.delete(key);
  }

  #left({ frame }: KeptCommand): void {
    const { conversation_id: id, idempotency_key: key, content } = frame as unknown as LeftCommand;
    if (id !== this.#chat.conversationId || this.#sent.has(key) || !content) return;
    const { text = null, payload = null } = content;
    this.#sent.set(key, { text, message: true, pending: null, left: true });
    this.#log.send(key, text, payload);
    this.#show();
  }

  // --- showing ----------------------------------------------------------------------------------

  #show(): void {
    if (this.#ended) return;
    const { snapshot } = this.#chat;
    const state = this.#link !== "stopped" && !navigator.onLine ? "offline" : this.#link;
    this.#panel.link(state);
    this.#log.fares(state === "live" || state === "connecting" ? this.#words.sending : this.#words.waiting);
    this.#log.working(this.#typing || (state === "live" && this.#sent.size > 0));
    this.#log.reach(this.#before, state === "live" && (this.#ready || snapshot.epoch === null));
    const requests = this.#chat.pending();
    this.#requests.show(requests, snapshot.state?.slots ?? {});
    const others =
      snapshot.state?.status === "waiting_acceptance" && !requests.some(({ kind }) => kind === "acceptance");
    this.#log.others(others);
    const form = requests.findLast(({ kind }) => kind === "clarification");
    const asks = ({ role, text }: Message) => role !== "user" && text === form?.prompt;
    this.#log.asking(form !== undefined, form && this.#chat.messages.findLast(asks)?.message_id);
  }

  /** Something came that the person did not say. */
  #news(offset: number): void {
    this.#typing = false;
    if (this.#looked) this.#see();
    else if (offset > this.#seen.offset) this.#count(this.#unread + 1);
  }

  get #looked(): boolean {
    return this.#open && document.visibilityState === "visible";
  }

  /** What is there now counts as seen, if somebody looks. */
  #see(): void {
    if (!this.#looked) {
      this.#count(this.#unread);
      return;
    }
    const { epoch, offset } = this.#chat.cursor;
    if (epoch !== null && (epoch !== this.#seen.epoch || offset > this.#seen.offset)) {
      this.#seen = { epoch, offset };
      this.#store.write("seen", this.#seen);
    }
    this.#count(0);
  }

  #count(unread: number): void {
    this.#unread = unread;
    this.#host.unread(unread);
  }

  #emit(name: string, detail: object): void {
    this.#host.element.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }
}

/** 128 random bits in hexadecimal digits. */
function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

/** Put a chat into what the launcher has made. */
export async function mount(host: Host): Promise<Mounted> {
  let others: Others = {};
  if (languageOf(host.locale) !== "en") {
    const module = import(new URL(OTHERS, import.meta.url).href) as Promise<{ OTHERS: Others }>;
    others = (await module.catch(() => ({ OTHERS: {} }))).OTHERS; // better in English than not at all
  }
  return new Chat(host, wordsOf(host.locale, host.strings, others));
}

/** The widget's version. */
export const version = VERSION;
