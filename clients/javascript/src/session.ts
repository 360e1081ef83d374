/**
 * The client's half of `parley.v1` as a state machine without I/O, clock or randomness.
 *
 * Texts, time and tokens are passed in, outputs come back as a list in order. All times are milliseconds of any
 * monotonic clock. It is the machine of the Python client, held to the same vectors; what it does and why is
 * written there, in `clients/python/src/parley_client/_session.py`, rule by rule. In short:
 *
 * - **Connection.** `opened` sends `hello` and nothing else; commands, requests and subscriptions leave behind
 *   `welcome` only, at the pace that `welcome.limits` allows. After `ping_interval` + 10 s of silence the socket
 *   is given up. `probe` asks for a sign of life when the network may have changed.
 * - **Cursor.** One (epoch, offset) for each watched conversation; only `events` and `snapshot` move it. A gap
 *   or another epoch means resume: `subscribe` with the cursor. Three resumes in a row that move nothing ask for
 *   a snapshot instead; three more give up the socket.
 * - **Commands.** One unacknowledged command a conversation, the others wait behind it, in order, and all of
 *   them for the subscription's answer. After a new `welcome` the unacknowledged one is sent again, same key. A
 *   command settles once: by its `turn.*` event, by an ack with `result`, or by a final error.
 * - **Bounds.** `outboxLimit` unacknowledged commands and as many requests; 16 unfinished streams and 64
 *   finished message ids a conversation, the oldest forgotten first.
 *
 * @module
 */
import { IdempotencyConflict, OutboxFull } from "./errors.js";
import * as protocol from "./protocol.js";
import { type Cursor, mapping, type Raw } from "./records.js";

export const OUTBOX_LIMIT = 100;
export const MAX_TRIES = 6;
export const MAX_RETRY_MS = 30_000;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 8_000;
const DRAIN_MS = 5_000;
const PROBE_MS = 5_000;
const MAX_STREAMS = 16;
const MAX_FINISHED = 64;
const STRIKES_TO_SNAPSHOT = 3;
const STRIKES_TO_CLOSE = 6;
/** Frames kept back from the server's burst, for what the network bunches together. */
const PACE_MARGIN = 4;

/** What the session tells its shell to do or to know. */
export type Output =
  /** Write this text frame. `secret` frames hold a token and must not be logged as they are. */
  | { do: "send"; text: string; secret: boolean }
  /** Give up the socket now, without waiting for the other side; then call `closed`. */
  | { do: "close"; code: number; reason: string }
  /** Get a fresh token and hand it to `token`. */
  | { do: "needToken" }
  /** `welcome` came. */
  | { do: "online"; welcome: Raw }
  /** The connection is gone. */
  | Offline
  /** An error that belongs to no command or request. */
  | { do: "complaint"; error: Raw }
  /** The request's result, or the error that ended it. */
  | { do: "answer"; requestId: number; result: unknown; error: Raw | null }
  | ChatOutput;

export interface Offline {
  do: "offline";
  /** Whether to open another one. */
  reconnect: boolean;
  code: number;
  reason: string;
  /** The error object with which `hello` was refused. */
  error: Raw | null;
  /** Get a new token first. */
  freshToken: boolean;
  /** The server asks to spread the return over this time. */
  withinMs: number | null;
  /** Something was acknowledged or dispatched, so the pause may begin short again. */
  progress: boolean;
}

/** What one conversation is told. */
export type ChatOutput = { conversationId: string } & (
  | /** These events are next, in order; the cursor is at `to` already. */
  { do: "dispatch"; epoch: string; to: number; events: Raw[] }
  /** A `snapshot` frame replaces all that was known. */
  | { do: "replace"; snapshot: Raw }
  /** The next piece of a message that is being written. */
  | { do: "delta"; frame: Raw }
  | { do: "typing"; frame: Raw }
  /** The subscription stands; replay or snapshot, if any, follows. */
  | { do: "watching"; recovered: boolean }
  /** It is no longer watched. `forget`: it is gone, cursor and outbox were dropped. */
  | { do: "detached"; error: Raw; forget: boolean }
  /** The command was acknowledged (once for each ack). */
  | { do: "accepted"; key: string; ack: Raw }
  /** A temporary error; the command is sent again after `afterMs`. */
  | { do: "retry"; key: string; afterMs: number; error: Raw }
  /** The command's turn has ended; `through`: the turn's events lie at or below it, where an ack told. */
  | { do: "settled"; key: string; completed: boolean; data: Raw; through: Cursor | null }
  /** The command has ended in this error; it changed nothing. */
  | { do: "refusal"; key: string; error: Raw }
);

/** Keeps commands until they are acknowledged. */
export interface Journal {
  /** Make a command durable; throws `OutboxFull` or `OutboxUnusable`, nothing being taken. */
  keep(frame: Raw, size: number): void;
  /** Drop a command, if it is there. */
  release(conversationId: string, key: string): void;
}

interface Command {
  chat: Chat;
  key: string;
  body: string;
  /** `on_busy: reject`: a busy conversation is an answer. */
  impatient: boolean;
  tries: number;
  acked: boolean;
  settled: boolean;
  /** Nobody waits for its outcome. */
  orphan: boolean;
  /** Its turn may lie among events that a snapshot replaced. */
  doubtful: boolean;
}

interface Request {
  id: number;
  body: string;
  tries: number;
  abandoned: boolean;
}

/** One conversation: its cursor, its subscription and its commands. */
interface Chat {
  id: string;
  wanted: boolean;
  phase: number;
  epoch: string | null;
  offset: number;
  subscribeId: string | null;
  tries: number;
  strikes: number;
  patience: number;
  streams: Map<string, { text: string; next: number }>;
  finished: Set<string>;
  queue: Command[];
  inflight: Command | null;
  paused: boolean;
  ready: boolean;
  commands: Map<string, Command>;
}

type Answered = (frame: Raw, now: number) => void;

const OFFLINE = 0;
const GREETING = 1;
const ONLINE = 2;
const CLOSING = 3;

// where a watched conversation stands on this connection
const NONE = 0;
const SUBSCRIBING = 1;
const AWAITING_SNAPSHOT = 2;
const LIVE = 3;

/** The server sent what is not a frame. */
class Unreadable extends Error {}

const ignore = () => {};

/** Return a field that must be there. `kind`: what `typeof` says of it, or `null`. */
function need(frame: Raw, name: string, ...kinds: string[]) {
  const value = frame[name];
  if (!kinds.includes(value === null ? "null" : Array.isArray(value) ? "array" : typeof value)) {
    throw new Unreadable(`unreadable frame: field ${name}`);
  }
  return value;
}

const chatOf = (frame: Raw): string => need(frame, "conversation_id", "string");
const localError = (code: string, message: string, suggestion: string | null = null): Raw => ({
  code,
  message,
  temporary: false,
  suggestion,
});
const cursorOf = (chat: Chat): Cursor => ({ epoch: chat.epoch, offset: chat.offset });
const isMissing = (error: Raw) => error.code === "conversation_not_found";
const first = <T>(found: Iterable<T>): T => found[Symbol.iterator]().next().value as T;

export class Session {
  #state = OFFLINE;
  #out: Output[] = [];
  #chats = new Map<string, Chat>();
  #unacked = 0;
  #requests = new Map<number, Request>();
  #nextId = 0;
  #nextRequest = 0;
  // of the present connection
  #answers = new Map<string, [Answered, Answered]>();
  #helloId = "";
  #helloAbout: string | null = null;
  #helloError: Raw | null = null;
  #farewell: Raw | null = null;
  #progress = false;
  #heard = 0;
  #probeBy: number | null = null;
  #welcomeBy = 0;
  #silence = (protocol.PING_INTERVAL_S + protocol.SILENCE_GRACE_S) * 1000;
  #drainUntil: number | null = null;
  #maxFrame = protocol.MAX_FRAME_BYTES;
  // what may leave, most urgent first
  #control: [string, boolean][] = [];
  #asking: Request[] = [];
  #ready: Chat[] = [];
  // pace: tokens of a bucket; 0 is without limit
  #ratePerMs = 0;
  #burst = 1;
  #tokens = 1;
  #filled = 0;
  #timers: [due: number, action: () => void][] = [];
  #limit: number;
  #hello: Raw;
  #journal: Journal | null;

  /**
   * @param options.hello more fields of `hello`: `locale`, `timezone`.
   * @param options.journal keeps commands over the end of the page or process.
   */
  constructor(options: { outboxLimit?: number; hello?: Raw; journal?: Journal | null } = {}) {
    this.#limit = options.outboxLimit ?? OUTBOX_LIMIT;
    this.#hello = options.hello ?? {};
    this.#journal = options.journal ?? null;
  }

  // --- what the application asks ------------------------------------------------------------

  /** Whether `welcome` came and the socket has not been given up. */
  get online(): boolean {
    return this.#state === ONLINE;
  }

  /** How many commands wait for their acknowledgement. */
  get unacknowledged(): number {
    return this.#unacked;
  }

  /** Return the place up to which everything was dispatched. */
  cursor(conversationId: string): Cursor {
    const chat = this.#chats.get(conversationId);
    return chat ? cursorOf(chat) : { epoch: null, offset: 0 };
  }

  /** Whether events of the conversation come in, without anything missing that is known of. */
  live(conversationId: string): boolean {
    return this.online && this.#chats.get(conversationId)?.phase === LIVE;
  }

  /** Whether the conversation is to be watched. */
  watching(conversationId: string | null): boolean {
    return this.#chats.get(conversationId as string)?.wanted ?? false;
  }

  /** Return the texts so far of the messages that are being written, by message id. */
  partials(conversationId: string): Record<string, string> {
    const streams = this.#chats.get(conversationId)?.streams ?? [];
    return Object.fromEntries([...streams].map(([id, { text }]) => [id, text]));
  }

  /** Watch a conversation from now on, over reconnections; `resume` is a cursor kept from before. */
  watch(conversationId: string, now: number, resume: Cursor | null = null): Output[] {
    const chat = this.#chat(conversationId);
    if (!chat.wanted) {
      chat.wanted = true;
      chat.tries = 0;
      if (resume && chat.epoch === null) {
        Object.assign(chat, resume);
      }
      if (this.online) {
        this.#subscribe(chat);
      }
    }
    return this.#finish(now);
  }

  /** Stop watching. Commands on their way stay. */
  unwatch(conversationId: string, now: number): Output[] {
    const chat = this.#chats.get(conversationId);
    if (chat?.wanted) {
      chat.wanted = false;
      chat.streams.clear();
      if (this.online && chat.phase !== NONE) {
        this.#control.push([conversationId, false]);
      }
      chat.phase = NONE;
      chat.subscribeId = null;
      this.#offer(chat);
      this.#tidy(chat);
    }
    return this.#finish(now);
  }

  /**
   * Take a command: `frame` is complete but for its `id`, with an `idempotency_key`. The same command under a
   * key that has not settled is taken once.
   *
   * @throws OutboxFull nothing was taken.
   * @throws IdempotencyConflict another command with this key has not settled.
   * @throws InvalidFrame it cannot be written as JSON.
   */
  submit(frame: Raw, now: number): Output[] {
    const body = protocol.encode(frame);
    const chat = this.#chat(frame.conversation_id);
    const key: string = frame.idempotency_key;
    const known = chat.commands.get(key);
    if (known) {
      if (known.body !== body) {
        throw new IdempotencyConflict("another command with this idempotency key is on its way", {
          field: "idempotency_key",
        });
      }
      known.orphan = false;
      return this.#finish(now);
    }
    try {
      if (this.#unacked >= this.#limit) {
        throw new OutboxFull(`${this.#unacked} commands wait for their acknowledgement`);
      }
      this.#journal?.keep(frame, body.length);
    } catch (error) {
      this.#tidy(chat);
      throw error;
    }
    this.#take(chat, key, body, frame.on_busy === "reject", false);
    this.#offer(chat);
    return this.#finish(now);
  }

  /** Take commands that an earlier page or process left, before the first connection; nobody waits for them. */
  restore(frames: readonly Raw[]): void {
    for (const frame of [...frames].reverse()) {
      const chat = this.#chat(frame.conversation_id);
      if (!chat.commands.has(frame.idempotency_key)) {
        this.#take(chat, frame.idempotency_key, protocol.encode(frame), false, true);
        chat.queue.unshift(chat.queue.pop() as Command); // before what this one has said since
      }
    }
  }

  /** Let go of commands that were restored and turned out to be somebody else's. */
  disown(frames: readonly Raw[]): void {
    for (const frame of frames) {
      const command = this.#chats.get(frame.conversation_id)?.commands.get(frame.idempotency_key);
      if (command && !command.acked) {
        command.acked = command.settled = true;
        this.#unacked -= 1;
        command.chat.inflight = command.chat.inflight === command ? null : command.chat.inflight;
        this.#drop(command);
      }
    }
  }

  /** Nobody waits for this command any more. It is not undone; only its outcome is not asked for. */
  abandon(conversationId: string, key: string): void {
    const command = this.#chats.get(conversationId)?.commands.get(key);
    if (command) {
      command.orphan = true;
      if (command.acked && command.chat.inflight !== command) {
        this.#drop(command);
      }
    }
  }

  /**
   * Ask something that changes nothing (`state`, `history`); `told` gets the number of its answer first.
   *
   * @throws OutboxFull too many requests are open.
   * @throws InvalidFrame it cannot be written as JSON.
   */
  request(frame: Raw, now: number, told: (requestId: number) => void): Output[] {
    const body = protocol.encode(frame);
    if (this.#requests.size >= this.#limit) {
      throw new OutboxFull(`${this.#requests.size} requests wait for their answer`);
    }
    this.#nextRequest += 1;
    const request = { id: this.#nextRequest, body, tries: 0, abandoned: false };
    this.#requests.set(request.id, request);
    told(request.id);
    if (this.online) {
      this.#asking.push(request);
    }
    return this.#finish(now);
  }

  /** Nobody waits for this request any more. */
  withdraw(requestId: number): void {
    const request = this.#requests.get(requestId);
    if (request) {
      request.abandoned = true;
      this.#requests.delete(requestId);
    }
  }

  /** Tell that somebody types; a hint, dropped when offline or beyond the pace. */
  typing(conversationId: string, typing: boolean, now: number): Output[] {
    if (this.online && this.#drainUntil === null && this.#maySend(now)) {
      const text = protocol.encode({ type: "typing", conversation_id: conversationId, typing });
      this.#out.push({ do: "send", text, secret: false });
    }
    return this.#finish(now);
  }

  /** Hand in the token that `needToken` asked for. */
  token(token: string, now: number): Output[] {
    if (this.online) {
      this.#transmit(protocol.encode({ type: "auth", token }), ignore, this.#complain, true);
    }
    return this.#finish(now);
  }

  /** The network may have changed: ask for a sign of life, and give the socket up where none comes. */
  probe(now: number): Output[] {
    if (this.online && this.#probeBy === null && this.#maySend(now)) {
      this.#probeBy = now + PROBE_MS;
      // any answer will do; nothing is watched by this name
      const frame = { type: "unsubscribe", conversation_id: "probe" };
      this.#transmit(protocol.encode(frame), ignore, ignore);
    }
    return this.#finish(now);
  }

  // --- what the connection tells ------------------------------------------------------------

  /** A new socket is open: greet. The first watched conversation travels in `hello`. */
  opened(token: string | null, now: number): Output[] {
    this.#state = GREETING;
    this.#helloError = this.#farewell = this.#drainUntil = this.#probeBy = null;
    this.#progress = false;
    this.#heard = now;
    this.#welcomeBy = now + protocol.GREETING_MS;
    this.#answers.clear();
    const chat = [...this.#chats.values()].find((each) => each.wanted);
    const hello = protocol.given({
      type: "hello",
      token,
      client: { name: protocol.CLIENT_NAME, version: protocol.VERSION },
      ...this.#hello,
      conversation_id: chat?.id,
      resume: chat?.epoch && cursorOf(chat),
    });
    if (chat) {
      chat.phase = SUBSCRIBING;
    }
    const refused: Answered = (error) => {
      this.#helloError = error;
    };
    this.#helloId = this.#transmit(protocol.encode(hello), ignore, refused, true);
    this.#helloAbout = chat?.id ?? null;
    return this.#finish(now);
  }

  /** A message came. What is no frame of this protocol ends the connection (it reconnects). */
  receive(text: unknown, now: number): Output[] {
    if (this.#state !== GREETING && this.#state !== ONLINE) {
      return [];
    }
    this.#heard = now;
    this.#probeBy = null;
    try {
      const frame = parse(text);
      this.#handle(need(frame, "type", "string"), frame, now);
    } catch (error) {
      if (!(error instanceof Unreadable)) {
        throw error;
      }
      this.#giveUp(protocol.CLOSE_PROTOCOL_ERROR, error.message);
    }
    return this.#finish(now);
  }

  /** The socket is gone, or could not be opened (1006). What was on its way waits for the next one. */
  closed(code: number, reason: string, now: number): Output[] {
    if (this.#state === CLOSING) {
      code = protocol.CLOSE_ABNORMAL; // this side gave it up; the policy for codes is about the server's
    } else if (this.#farewell && (code === 1005 || code === protocol.CLOSE_ABNORMAL)) {
      code = this.#farewell.code;
      reason ||= this.#farewell.reason;
    }
    const within = this.#farewell?.reconnect_within_ms;
    const reconnect = this.#lostOneConversation() || protocol.mayReconnect(code);
    this.#state = OFFLINE;
    this.#out.push({
      do: "offline",
      reconnect,
      code,
      reason,
      error: this.#helloError,
      freshToken: code === protocol.CLOSE_TOKEN_EXPIRED,
      withinMs: typeof within === "number" ? within : null,
      progress: this.#progress,
    });
    this.#answers.clear();
    this.#control = [];
    this.#asking = [];
    this.#ready = [];
    this.#timers = [];
    for (const chat of [...this.#chats.values()]) {
      this.#hold(chat, code === protocol.CLOSE_STATE_LOST);
      this.#tidy(chat);
    }
    return this.#finish(now);
  }

  /** When `tick` is due at the latest; Infinity while offline. */
  wakeup(): number {
    if (this.#state === GREETING) {
      return this.#welcomeBy;
    }
    if (this.#state !== ONLINE) {
      return Number.POSITIVE_INFINITY;
    }
    const due = [
      this.#heard + this.#silence,
      this.#probeBy ?? Number.POSITIVE_INFINITY,
      this.#timers[0]?.[0] ?? Number.POSITIVE_INFINITY,
    ];
    if (this.#drainUntil !== null) {
      due.push(this.#drainUntil);
    } else if (this.#ratePerMs && (this.#control.length || this.#asking.length || this.#ready.length)) {
      due.push(this.#filled + Math.floor((1 - this.#tokens) / this.#ratePerMs) + 1);
    }
    return Math.min(...due);
  }

  /** Time has passed. */
  tick(now: number): Output[] {
    if (this.#state === GREETING && now >= this.#welcomeBy) {
      this.#giveUp(protocol.CLOSE_NO_PONG, "no welcome in time");
    } else if (this.#state === ONLINE) {
      if (now >= this.#heard + this.#silence || now >= (this.#probeBy ?? Number.POSITIVE_INFINITY)) {
        this.#giveUp(protocol.CLOSE_NO_PONG, "silence");
      } else if (this.#drainUntil !== null && now >= this.#drainUntil) {
        this.#giveUp(protocol.CLOSE_NORMAL, "the server is leaving");
      } else {
        while (this.#timers[0] && this.#timers[0][0] <= now) {
          this.#timers.shift()?.[1]();
        }
      }
    }
    return this.#finish(now);
  }

  // --- frames -------------------------------------------------------------------------------

  #handle(type: string, frame: Raw, now: number): void {
    switch (type) {
      case "welcome":
        return this.#onWelcome(frame, now);
      case "ack": {
        const id = need(frame, "id", "string");
        const waiting = this.#answers.get(id);
        this.#answers.delete(id);
        return waiting?.[0](frame, now);
      }
      case "error": {
        const error = need(frame, "error", "object");
        const id = need(frame, "id", "string", "null");
        const waiting = this.#answers.get(id);
        this.#answers.delete(id);
        return (waiting?.[1] ?? this.#complain)(error, now);
      }
      case "events":
        return this.#onEvents(frame);
      case "message.delta":
        return this.#onDelta(frame);
      case "snapshot":
        return this.#onSnapshot(frame);
      case "unsubscribed": {
        const chat = this.#chats.get(chatOf(frame));
        const code = String(frame.code || "unsubscribed");
        if (chat?.wanted) {
          this.#detach(chat, localError(code, "The server ended the subscription."));
        }
        return;
      }
      case "ping":
        return this.#onPing(frame, now);
      case "auth.required":
        this.#out.push({ do: "needToken" });
        return;
      case "typing":
        if (this.watching(chatOf(frame))) {
          this.#out.push({ do: "typing", conversationId: frame.conversation_id, frame });
        }
        return;
      case "disconnect":
        need(frame, "code", "number");
        need(frame, "reason", "string");
        this.#farewell = frame;
        this.#drainUntil = now + DRAIN_MS;
    }
  }

  #onWelcome(frame: Raw, now: number): void {
    if (this.#state !== GREETING || frame.id !== this.#helloId) {
      return;
    }
    this.#answers.delete(this.#helloId);
    this.#state = ONLINE;
    if (frame.ping_interval > 0) {
      this.#silence = (frame.ping_interval + protocol.SILENCE_GRACE_S) * 1000;
    }
    this.#applyLimits(mapping(frame.limits), now);
    this.#out.push({ do: "online", welcome: frame });
    if (this.#helloAbout !== null && !this.watching(this.#helloAbout)) {
      this.#control.push([this.#helloAbout, false]);
    }
    for (const chat of this.#chats.values()) {
      if (!chat.wanted) {
        this.#askAgain(chat);
        this.#offer(chat);
      } else if (chat.id === this.#helloAbout) {
        this.#subscribed(chat, frame);
      } else {
        this.#subscribe(chat);
      }
    }
    this.#asking.push(...this.#requests.values());
  }

  #onEvents(frame: Raw): void {
    const chat = this.#chats.get(chatOf(frame));
    if (!chat || chat.phase === NONE || chat.phase === AWAITING_SNAPSHOT) {
      return;
    }
    const epoch: string = need(frame, "epoch", "string");
    const from: number = need(frame, "from", "number");
    const to: number = need(frame, "to", "number");
    if (epoch === chat.epoch && to <= chat.offset) {
      return;
    }
    if (epoch === chat.epoch ? from > chat.offset + 1 : chat.epoch !== null || from !== 1) {
      if (chat.phase === LIVE) {
        this.#resume(chat);
      }
      return;
    }
    const known = epoch === chat.epoch ? chat.offset : 0;
    const events: Raw[] = need(frame, "events", "array").filter(
      (event: Raw) =>
        need({ event }, "event", "object") && (from > known || need(event, "offset", "number") > known),
    );
    Object.assign(chat, { epoch, offset: to, strikes: 0 });
    this.#progress = true;
    this.#out.push({ do: "dispatch", conversationId: chat.id, epoch, to, events });
    for (const event of events) {
      this.#fold(chat, event);
    }
  }

  #onSnapshot(frame: Raw): void {
    const chat = this.#chats.get(chatOf(frame));
    if (!chat || chat.phase === NONE) {
      return;
    }
    const epoch: string | null = need(frame, "epoch", "string", "null");
    const gone = epoch === null && chat.epoch !== null;
    Object.assign(chat, { epoch, offset: need(frame, "offset", "number"), strikes: 0 });
    if (chat.phase === AWAITING_SNAPSHOT) {
      chat.phase = LIVE;
    }
    chat.streams.clear();
    for (const partial of Array.isArray(frame.partials) ? frame.partials : []) {
      const text = need(partial, "text", "string");
      chat.streams.set(need(partial, "message_id", "string"), {
        text,
        next: need(partial, "next_index", "number"),
      });
    }
    this.#out.push({ do: "replace", conversationId: chat.id, snapshot: frame });
    if (chat.inflight) {
      chat.inflight.doubtful = true;
    }
    if (gone) {
      this.#forget(chat, localError("conversation_not_found", "The conversation does not exist."));
    } else {
      this.#askAgain(chat);
      this.#offer(chat);
    }
  }

  #onDelta(frame: Raw): void {
    const chat = this.#chats.get(chatOf(frame));
    if (!chat || chat.phase === NONE || chat.phase === AWAITING_SNAPSHOT) {
      return;
    }
    const id: string = need(frame, "message_id", "string");
    const index: number = need(frame, "index", "number");
    if (chat.finished.has(id)) {
      return;
    }
    let stream = chat.streams.get(id);
    if (!stream && index === 0) {
      stream = { text: "", next: 0 };
      chat.streams.set(id, stream);
      if (chat.streams.size > MAX_STREAMS) {
        chat.streams.delete(first(chat.streams.keys()));
      }
    }
    // behind a hole `next` stays where it is, so nothing of this message continues it any more
    if (stream?.next === index) {
      stream.next += 1;
      stream.text += need(frame, "delta", "string");
      this.#out.push({ do: "delta", conversationId: chat.id, frame });
    }
  }

  #onPing(frame: Raw, now: number): void {
    this.#maySend(now); // counts, but is never held back
    this.#out.push({ do: "send", text: '{"type":"pong"}', secret: false });
    const offsets = mapping(frame.offsets);
    for (const chat of this.#chats.values()) {
      if (chat.phase === LIVE && offsets[chat.id] > chat.offset) {
        this.#resume(chat);
      }
      if (chat.phase === AWAITING_SNAPSHOT || chat.subscribeId !== null) {
        chat.patience -= 1;
        if (chat.patience < 0) {
          this.#resume(chat);
        }
      } else if (chat.phase === LIVE && !Object.hasOwn(offsets, chat.id)) {
        this.#askAgain(chat);
        this.#offer(chat);
      }
    }
  }

  // --- connection ---------------------------------------------------------------------------

  /** Whether `hello` was refused for the conversation in it alone, so that the others may return. */
  #lostOneConversation(): boolean {
    const error = this.#helloError;
    const chat = this.#chats.get(this.#helloAbout ?? "");
    if (!error || !chat || !isMissing(error)) {
      return false;
    }
    this.#helloError = null;
    this.#detach(chat, error);
    return true;
  }

  #applyLimits(limits: Raw, now: number): void {
    const { max_frame_bytes: size, frames_per_second: rate } = limits;
    this.#maxFrame = size > 0 ? size : protocol.MAX_FRAME_BYTES;
    this.#ratePerMs = rate > 0 ? rate / 1000 : 0;
    this.#burst = this.#tokens = Math.max(1, 2 * rate - PACE_MARGIN);
    this.#filled = now;
  }

  /** Take a token of the bucket, if there is one. */
  #maySend(now: number): boolean {
    if (!this.#ratePerMs) {
      return true;
    }
    if (now > this.#filled) {
      this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#filled) * this.#ratePerMs);
      this.#filled = now;
    }
    if (this.#tokens < 1) {
      return false;
    }
    this.#tokens -= 1;
    return true;
  }

  #giveUp(code: number, reason: string): void {
    if (this.#state !== CLOSING) {
      this.#state = CLOSING;
      this.#out.push({ do: "close", code, reason });
    }
  }

  #complain = (error: Raw): void => {
    this.#out.push({ do: "complaint", error });
  };

  // --- sending ------------------------------------------------------------------------------

  /** Let leave what may leave, and return what has gathered. */
  #finish(now: number): Output[] {
    if (this.#state === ONLINE && this.#drainUntil === null) {
      while ((this.#control.length || this.#asking.length || this.#ready.length) && this.#maySend(now)) {
        const control = this.#control.shift();
        const request = control ? undefined : this.#asking.shift();
        if (control) {
          this.#sendControl(...control);
        } else if (request) {
          this.#sendRequest(request);
        } else {
          this.#sendCommand(this.#ready.shift() as Chat);
        }
      }
    }
    const out = this.#out;
    this.#out = [];
    return out;
  }

  /** Put an id in front of a frame's JSON, send it, and remember who wants the answer. */
  #transmit(body: string, onAck: Answered, onError: Answered, secret = false): string {
    this.#nextId += 1;
    const id = String(this.#nextId);
    this.#answers.set(id, [onAck, onError]);
    this.#out.push({ do: "send", text: `{"id":"${id}",${body.slice(1)}`, secret });
    return id;
  }

  #sendControl(conversationId: string, subscribe: boolean): void {
    if (!subscribe) {
      const frame = { type: "unsubscribe", conversation_id: conversationId };
      this.#transmit(protocol.encode(frame), ignore, ignore);
      return;
    }
    const chat = this.#chat(conversationId);
    if (!chat.wanted || chat.phase !== SUBSCRIBING || chat.subscribeId !== null) {
      this.#tidy(chat);
      return;
    }
    const frame: Record<string, unknown> = { type: "subscribe", conversation_id: conversationId };
    // after resumes that moved nothing, only a snapshot can help
    if (chat.strikes <= STRIKES_TO_SNAPSHOT && (chat.epoch !== null || chat.strikes > 0)) {
      frame.resume = cursorOf(chat);
    }
    const id = this.#transmit(
      protocol.encode(frame),
      (ack) => chat.subscribeId === id && this.#subscribed(chat, need(ack, "result", "object")),
      (error, now) => chat.subscribeId === id && this.#subscriptionRefused(chat, error, now),
    );
    chat.subscribeId = id;
  }

  #sendRequest(request: Request): void {
    if (request.abandoned) {
      return;
    }
    if (this.#tooLarge(request.body)) {
      this.#answer(request, null, this.#tooLargeError());
      return;
    }
    this.#transmit(
      request.body,
      (ack) => this.#answer(request, ack.result, null),
      (error, now) => {
        const wait = retryWait(error, request.tries);
        if (wait === null) {
          this.#answer(request, null, error);
          return;
        }
        request.tries += 1;
        this.#later(now + wait, () => this.#asking.push(request));
      },
    );
  }

  #answer(request: Request, result: unknown, error: Raw | null): void {
    if (this.#requests.delete(request.id)) {
      this.#out.push({ do: "answer", requestId: request.id, result, error });
    }
  }

  #tooLarge(body: string): boolean {
    // an id adds at most 28 bytes; most bodies are short enough without counting their bytes
    const room = this.#maxFrame - 28;
    return body.length * 3 > room && new TextEncoder().encode(body).length > room;
  }

  #tooLargeError(): Raw {
    const message = `The frame is larger than the server's ${this.#maxFrame} bytes.`;
    return localError("payload_too_large", message, "Send less at once.");
  }

  #later(due: number, action: () => void): void {
    this.#timers.push([due, action]);
    this.#timers.sort((a, b) => a[0] - b[0]);
  }

  // --- conversations ------------------------------------------------------------------------

  #chat(id: string): Chat {
    let chat = this.#chats.get(id);
    if (!chat) {
      chat = {
        id,
        wanted: false,
        phase: NONE,
        epoch: null,
        offset: 0,
        subscribeId: null,
        tries: 0,
        strikes: 0,
        patience: 0,
        streams: new Map(),
        finished: new Set(),
        queue: [],
        inflight: null,
        paused: false,
        ready: false,
        commands: new Map(),
      };
      this.#chats.set(id, chat);
    }
    return chat;
  }

  #tidy(chat: Chat): void {
    if (!chat.wanted && !chat.commands.size && !chat.inflight) {
      this.#chats.delete(chat.id);
    }
  }

  #subscribe(chat: Chat): void {
    chat.phase = SUBSCRIBING;
    chat.subscribeId = null;
    chat.patience = 1;
    this.#control.push([chat.id, true]);
  }

  #resume(chat: Chat): void {
    chat.strikes += 1;
    if (chat.strikes > STRIKES_TO_CLOSE) {
      this.#giveUp(protocol.CLOSE_PROTOCOL_ERROR, "events do not continue");
    } else {
      this.#subscribe(chat);
    }
  }

  /** Take `welcome` or the `result` of `subscribe`'s ack; neither moves the cursor. */
  #subscribed(chat: Chat, answer: Raw): void {
    const recovered = Boolean(answer.recovered);
    chat.phase = recovered ? LIVE : AWAITING_SNAPSHOT;
    chat.subscribeId = null;
    chat.tries = 0;
    chat.patience = 1;
    this.#out.push({ do: "watching", conversationId: chat.id, recovered });
    this.#offer(chat);
  }

  #subscriptionRefused(chat: Chat, error: Raw, now: number): void {
    const wait = retryWait(error, chat.tries);
    chat.subscribeId = null;
    if (wait === null) {
      this.#detach(chat, error);
      return;
    }
    chat.tries += 1;
    this.#later(now + wait, () => {
      if (chat.wanted && chat.phase === SUBSCRIBING && chat.subscribeId === null) {
        this.#control.push([chat.id, true]);
      }
    });
  }

  #detach(chat: Chat, error: Raw): void {
    chat.wanted = false;
    chat.phase = NONE;
    if (isMissing(error)) {
      this.#forget(chat, error);
      return;
    }
    chat.streams.clear();
    this.#out.push({ do: "detached", conversationId: chat.id, error, forget: false });
    for (const command of [...chat.commands.values()]) {
      if (command.acked && !command.settled) {
        this.#refuse(command, error); // its turn can no longer be seen
      }
    }
    this.#offer(chat);
    this.#tidy(chat);
  }

  /** The conversation is gone: drop cursor and outbox, tell whoever waits. */
  #forget(chat: Chat, error: Raw): void {
    chat.epoch = null;
    chat.offset = 0;
    chat.streams.clear();
    chat.finished.clear();
    this.#out.push({ do: "detached", conversationId: chat.id, error, forget: true });
    for (const command of [...chat.commands.values()]) {
      if (!command.settled) {
        this.#refuse(command, error);
      }
    }
    this.#tidy(chat);
  }

  /** The connection is gone: what was unacknowledged goes back to the front of its queue. */
  #hold(chat: Chat, forgetCursor: boolean): void {
    chat.phase = NONE;
    chat.subscribeId = null;
    chat.strikes = 0;
    chat.paused = chat.ready = false;
    if (forgetCursor) {
      chat.epoch = null;
      chat.offset = 0;
    }
    const command = chat.inflight;
    chat.inflight = null;
    if (command?.settled) {
      this.#acknowledged(command);
      this.#drop(command);
    } else if (command) {
      chat.queue.unshift(command);
    }
  }

  // --- commands -----------------------------------------------------------------------------

  #take(chat: Chat, key: string, body: string, impatient: boolean, orphan: boolean): void {
    const command = {
      chat,
      key,
      body,
      impatient,
      orphan,
      tries: 0,
      acked: false,
      settled: false,
      doubtful: false,
    };
    chat.commands.set(key, command);
    chat.queue.push(command);
    this.#unacked += 1;
  }

  /** Whether commands may leave: the subscription's answer is there, or nobody asked for one. */
  #mayLeave(chat: Chat): boolean {
    const gate = !chat.wanted || chat.phase === LIVE || chat.phase === AWAITING_SNAPSHOT;
    return gate && chat.queue.length > 0 && !chat.inflight && !chat.paused;
  }

  /** Let the next command of a conversation leave, if nothing stands before it. */
  #offer(chat: Chat): void {
    if (this.online && !chat.ready && this.#mayLeave(chat)) {
      chat.ready = true;
      this.#ready.push(chat);
    }
  }

  #sendCommand(chat: Chat): void {
    chat.ready = false;
    if (!this.#mayLeave(chat)) {
      return;
    }
    const command = chat.queue.shift() as Command;
    if (this.#tooLarge(command.body)) {
      this.#acknowledged(command);
      this.#refuse(command, this.#tooLargeError());
      this.#offer(chat);
      return;
    }
    chat.inflight = command;
    this.#transmit(
      command.body,
      (ack) => this.#commandAcked(command, ack),
      (error, now) => this.#commandRefused(command, error, now),
    );
  }

  #commandAcked(command: Command, ack: Raw): void {
    const { chat, key } = command;
    chat.inflight = null;
    this.#progress = true;
    this.#acknowledged(command);
    if (command.settled) {
      this.#drop(command);
    } else {
      this.#out.push({ do: "accepted", conversationId: chat.id, key, ack });
      const { status, result } = ack;
      const ended = status === "completed" || status === "failed";
      if (ended && (result || ack.duplicate || !chat.wanted)) {
        const through = { epoch: ack.epoch ?? null, offset: ack.offset ?? 0 };
        this.#settle(command, status === "completed", mapping(result), through);
      } else if (command.orphan) {
        this.#drop(command);
      } else if (command.doubtful) {
        command.doubtful = false;
        chat.queue.unshift(command);
      }
    }
    this.#offer(chat);
  }

  #commandRefused(command: Command, error: Raw, now: number): void {
    const { chat, key } = command;
    chat.inflight = null;
    const afterMs = command.settled ? null : this.#commandWait(command, error);
    if (command.settled) {
      // the event told already; the error is about a resend
      this.#acknowledged(command);
      this.#drop(command);
    } else if (afterMs !== null) {
      command.tries += 1;
      chat.queue.unshift(command);
      chat.paused = true;
      this.#later(now + afterMs, () => {
        chat.paused = false;
        this.#offer(chat);
      });
      this.#out.push({ do: "retry", conversationId: chat.id, key, afterMs, error });
    } else {
      this.#acknowledged(command);
      this.#refuse(command, error);
    }
    this.#offer(chat);
  }

  #commandWait(command: Command, error: Raw): number | null {
    if (error.code === "conversation_busy" && command.impatient) {
      return null;
    }
    if (error.code === "token_expired" && command.tries < MAX_TRIES) {
      this.#out.push({ do: "needToken" });
      return FIRST_RETRY_MS << command.tries;
    }
    return retryWait(error, command.tries);
  }

  #release(command: Command): void {
    this.#journal?.release(command.chat.id, command.key);
  }

  #acknowledged(command: Command): void {
    this.#release(command);
    if (!command.acked) {
      command.acked = true;
      this.#unacked -= 1;
    }
  }

  /** Draw from an event what concerns commands and streams. */
  #fold(chat: Chat, event: Raw): void {
    if (protocol.isTurnEnd(event.type)) {
      const command = chat.commands.get(event.command_id);
      if (command && !command.settled) {
        this.#settle(command, event.type === "turn.completed", mapping(event.data), null);
      }
    } else if (event.type === "message.completed" || event.type === "message.retracted") {
      const id = mapping(event.data).message_id;
      chat.streams.delete(id);
      chat.finished.add(id);
      if (chat.finished.size > MAX_FINISHED) {
        chat.finished.delete(first(chat.finished));
      }
    }
  }

  #settle(command: Command, completed: boolean, data: Raw, through: Cursor | null): void {
    const { chat, key } = command;
    command.settled = true;
    this.#release(command);
    this.#out.push({ do: "settled", conversationId: chat.id, key, completed, data, through });
    if (chat.inflight === command) {
      return; // its ack is still to come, and the next one waits for that
    }
    this.#acknowledged(command);
    this.#drop(command);
    this.#offer(chat);
  }

  #refuse(command: Command, error: Raw): void {
    const { chat, key } = command;
    command.settled = true;
    this.#release(command);
    this.#out.push({ do: "refusal", conversationId: chat.id, key, error });
    if (chat.inflight !== command) {
      this.#acknowledged(command);
      this.#drop(command);
    }
  }

  #drop(command: Command): void {
    const { chat } = command;
    if (chat.commands.get(command.key) === command) {
      chat.commands.delete(command.key);
    }
    chat.queue = chat.queue.filter((each) => each !== command);
    this.#tidy(chat);
  }

  /** Events were skipped: ask for the outcome of what was accepted, in order, before what is new. */
  #askAgain(chat: Chat): void {
    const open = [...chat.commands.values()].filter(
      (each) => each.acked && !each.settled && each !== chat.inflight && !chat.queue.includes(each),
    );
    chat.queue.unshift(...open);
  }
}

function parse(text: unknown): Raw {
  let frame: unknown = null;
  try {
    frame = JSON.parse(text as string);
  } catch {
    // what is no JSON is no frame
  }
  if (typeof text !== "string" || typeof frame !== "object" || frame === null || Array.isArray(frame)) {
    throw new Unreadable("unreadable frame: not a JSON object");
  }
  return frame;
}

/** How long to wait before trying again, in milliseconds; null: the error is final. */
function retryWait(error: Raw, tries: number): number | null {
  if (!error.temporary || tries >= MAX_TRIES) {
    return null;
  }
  const wait = error.retry_after_ms ?? Math.min(LAST_RETRY_MS, FIRST_RETRY_MS << tries);
  return wait > MAX_RETRY_MS ? null : Math.max(0, wait);
}
