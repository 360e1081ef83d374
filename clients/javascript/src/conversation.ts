/**
 * One conversation as its caller holds it in hand: commands, questions, events, and what is known of it.
 *
 * It decides nothing about the protocol; the session does, and the connection tells what came of it.
 *
 * @module
 */
import { type Waiter, waiter } from "./clock.js";
import { type Connection, guarded, within } from "./connection.js";
import { ConnectionClosed, errorFromWire, type ParleyError, TurnFailed } from "./errors.js";
import { type AnyEvent, type MessageDelta, parseEvent, type TypingNotice } from "./events.js";
import { createMirror, type Mirror } from "./mirror.js";
import * as protocol from "./protocol.js";
import {
  type Cursor,
  given,
  type HistoryPage,
  items,
  type JsonObject,
  type Message,
  mapping,
  type Pending,
  type Raw,
  type Snapshot,
  type State,
  type Turn,
  toMessage,
  toState,
  toTurn,
} from "./records.js";
import { added, Stream, streamInto } from "./stream.js";

/** How long the end of a turn that an ack told waits for the turn's events, which normally come with it. */
const HOLD_MS = 1_000;

/** How long to wait. */
export interface WaitOptions {
  /** Milliseconds; null is for ever. */
  timeoutMs?: number | null | undefined;
  /** Aborting ends the waiting; a command that was taken is not undone. */
  signal?: AbortSignal | undefined;
}

/** Of every command. */
export interface CommandOptions extends WaitOptions {
  /** 8-128 printable ASCII characters; 128 random bits are made if left out. */
  idempotencyKey?: string | undefined;
}

/** Of `send` and `ask`. */
export interface SendOptions extends CommandOptions {
  /** What the person said, where it is not the first argument. */
  text?: string | null | undefined;
  /** What the person pressed (a button's `payload`). */
  payload?: string | null | undefined;
  /** Travels with the message. */
  metadata?: JsonObject | undefined;
  /** Which flow to start, if one starts. */
  flowId?: string | null | undefined;
  /** What to do while an effect runs: wait in line (default), be refused, or interrupt it. */
  onBusy?: "enqueue" | "reject" | "interrupt" | undefined;
  /** On whose behalf (services with the scope `users:act`). */
  userId?: string | null | undefined;
  /** Where the person is: web (default), whatsapp, ... */
  channel?: string | null | undefined;
  /** For the flow's understanding. */
  processingHints?: JsonObject | undefined;
  /** Found from what is given. */
  contentType?: "text" | "button" | "form" | undefined;
}

/** Of `accept` and `reject`. */
export interface DecisionOptions extends CommandOptions {
  /** For the record. */
  comment?: string | undefined;
  /** Changed slots, by name; only those that the request calls editable. */
  edits?: JsonObject | undefined;
  /** The request's `digest`, where only its id is given. */
  digest?: string | undefined;
}

/** Of `parley.conversation`. */
export interface ConversationOptions {
  /** Default for `send`: which flow to start, if one starts. */
  flowId?: string | undefined;
  /** Default for `send`. */
  channel?: string | undefined;
  /** Default for `send`. */
  userId?: string | undefined;
  /** A `cursor` kept from earlier; only what came after it is handed out, where the server can still tell it. */
  resume?: Cursor | undefined;
}

type ByType = { [Type in AnyEvent["type"]]: Extract<AnyEvent, { type: Type }> };
/** What `chat.on` can listen to: `event` is everything, the others are one type of event each. */
export type ConversationEvents = ByType & { event: AnyEvent };

/** The events of one command's turn; ends with its `turn.completed` or `turn.failed`. */
export class TurnStream extends Stream<AnyEvent> {
  /** The command's idempotency key; sending it again with the same content is safe. */
  declare readonly commandId: string;
  /** The command is durable on the server. */
  accepted = false;
  /** The server knew the key: this is the outcome of an earlier sending. */
  duplicate = false;
  /** The turn, once it has ended well or badly. */
  turn: Turn | null = null;
}

/** One caller that waits for a command: with a stream (`send`) or with a promise (all others). */
interface Call {
  key: string;
  stream?: TurnStream;
  waiter: Waiter<Turn>;
  executionId?: string;
  duplicate?: boolean;
  sawEnd?: boolean;
}

/** The end of a turn, and where its events lie. */
type Settled = [key: string, completed: boolean, data: Raw, through: Cursor | null];

/**
 * One conversation. Get it from `parley.conversation`; the first use begins to watch it.
 *
 * Commands (`send`, `ask`, `accept`, `answer`, `reset`, `cancel`) are taken at once, leave one by one in the order
 * of the calls, survive reconnections and take effect once. A caller that aborts or times out stops waiting; the
 * command is not undone.
 */
export class Conversation {
  declare readonly conversationId: string;
  #connection: Connection;
  #defaults: ConversationOptions;
  #resume: Cursor | null;
  #mirror: Mirror;
  #calls = new Set<Call>();
  #held = new Set<Settled>();
  #stopHolding: (() => void) | null = null;
  #deaf = false;
  #streams = new Set<Stream<AnyEvent>>();
  #listeners = new Set<{ type: string; listener: (event: never) => void }>();
  #ready = waiter();
  #ended: ParleyError | null = null;

  /** @internal */
  constructor(connection: Connection, conversationId: string, options: ConversationOptions) {
    this.#connection = connection;
    this.conversationId = conversationId;
    this.#defaults = options;
    this.#resume = options.resume ?? null;
    this.#mirror = createMirror(conversationId);
    connection.chats.set(conversationId, {
      conversation: this,
      told: {
        dispatch: (epoch, to, events) => this.#onDispatch(epoch, to, events),
        replace: (frame) => {
          this.#deaf = false;
          this.#mirror.replace(frame);
          const { snapshot } = this;
          this.#tell({ type: "snapshot", conversation_id: conversationId, snapshot }, () => true);
          this.#release(true);
          this.#answerReady();
        },
        delta: (frame) => {
          const { execution_id } = frame;
          this.#tell(frame as MessageDelta, (call) => !execution_id || call.executionId === execution_id);
        },
        typing: (frame) => this.#tell(frame as TypingNotice),
        watching: (recovered) => recovered && this.#answerReady(),
        detached: (error, forget) => this.#onDetached(errorFromWire(error), forget),
        accepted: (key, ack) => {
          for (const call of this.#callsOf(key)) {
            call.executionId = ack.execution_id ?? call.executionId;
            call.duplicate = Boolean(ack.duplicate);
            Object.assign(call.stream ?? {}, { accepted: true, duplicate: call.duplicate });
          }
        },
        settled: (...told) => {
          this.#held.add(told);
          this.#release();
          if (this.#held.size) {
            this.#stopHolding ??= connection.clock.callLater(HOLD_MS, () => {
              // the events do not come: this principal may speak in the conversation, and not see it
              this.#deaf = true;
              this.#release();
            });
          }
        },
        refusal: (key, error) => this.#fail(this.#callsOf(key), errorFromWire(error)),
        offline: () => this.#release(true),
        end: (error) => this.#onEnd(error),
      },
    });
  }

  // --- saying something ---------------------------------------------------------------------

  /**
   * Say something, and iterate over what it causes: `for await (const event of chat.send("hi"))`.
   *
   * The message is on its way when this returns, also if nobody iterates. The iteration ends with the event
   * `turn.completed` or `turn.failed`; it throws `Timeout` where `timeoutMs` is over, the signal's reason where
   * it is aborted, and `Refused` where the server refused the message.
   *
   * @param text what the person said; or the options alone, for a button: `chat.send({ payload })`.
   * @throws OutboxFull too many commands wait for their acknowledgement; this one was not taken.
   * @throws BadRequest neither text nor payload.
   * @throws ConnectionClosed the client is closed.
   */
  send(text: string | SendOptions, options: SendOptions = {}): TurnStream {
    const told = typeof text === "string" ? { ...options, text } : text;
    const frame = this.#process(told);
    const call = this.#call(told.idempotencyKey);
    const leave = () => call.waiter.reject(null);
    const stream = new TurnStream(this.#connection.eventBuffer, leave, told.signal);
    call.stream = Object.assign(stream, { commandId: call.key });
    if (!stream.ended) {
      this.#command(frame, call);
      this.#end(call, { timeoutMs: told.timeoutMs }).then(
        () => stream.finish(),
        (error) => stream.finish(error),
      );
    }
    return stream;
  }

  /**
   * Say something and wait for the end of the turn; the arguments are those of `send`.
   *
   * @throws TurnFailed the turn failed.
   * @throws Timeout the time is up; the message stands.
   * @throws Refused the server refused the message.
   * @throws OutboxFull the message was not taken.
   * @throws ConnectionClosed the connection has ended for good.
   */
  async ask(text: string | SendOptions, options: SendOptions = {}): Promise<Turn> {
    const told = typeof text === "string" ? { ...options, text } : text;
    return this.#run(this.#process(told), told);
  }

  /**
   * Accept an acceptance request and wait for what follows.
   *
   * @param pending which one; by its id, or as the record that was shown, whose `digest` goes along: then only
   *   what was shown is accepted.
   * @throws PendingResolved somebody was faster; `decided` says who, and what.
   * @throws PendingExpired its deadline is over.
   * @throws PermissionDenied it is for others to decide.
   * @throws WrongState what would run is not what was shown; look again.
   * @throws BadRequest an edit that is not allowed or not valid; `field` names it.
   * @throws ParleyError as `ask`.
   */
  async accept(pending: string | Pending, options: DecisionOptions = {}): Promise<Turn> {
    return this.#run({ type: "acceptance", ...protocol.decisionBody(pending, true, options) }, options);
  }

  /** Reject an acceptance request and wait for what follows; arguments and errors as `accept`. */
  async reject(pending: string | Pending, options: Omit<DecisionOptions, "edits"> = {}): Promise<Turn> {
    return this.#run({ type: "acceptance", ...protocol.decisionBody(pending, false, options) }, options);
  }

  /**
   * Answer a clarification: `await chat.answer(pending, { part: "morning" })`.
   *
   * @param pending which one, by its id or as the record.
   * @param answers by question id.
   * @throws MissingAnswers `missing` names the questions; the request stays open.
   * @throws PendingResolved somebody was faster; `decided` says who, and what.
   * @throws PendingExpired its deadline is over.
   * @throws ParleyError as `ask`.
   */
  async answer(pending: string | Pending, answers: JsonObject, options: CommandOptions = {}): Promise<Turn> {
    return this.#run({ type: "clarification", ...protocol.answersBody(pending, answers) }, options);
  }

  /** Cancel what runs, clear slots, variables and context; throws as `ask`. */
  reset(reason?: string, options: CommandOptions = {}): Promise<Turn> {
    return this.#run({ type: "reset", reason }, options);
  }

  /**
   * Cancel the current execution.
   *
   * @param options.executionId if given, it must be the current one.
   * @throws WrongState nothing runs.
   * @throws ParleyError as `ask`.
   */
  cancel(options: CommandOptions & { executionId?: string; reason?: string } = {}): Promise<Turn> {
    const { executionId: execution_id, reason } = options;
    return this.#run({ type: "cancel", execution_id, reason }, options);
  }

  /** Tell the others that this person types, or has stopped; a hint, dropped when offline. */
  typing(typing = true): void {
    this.#check();
    this.#connection.perform(() => this.#chat.typing(typing));
  }

  // --- asking -------------------------------------------------------------------------------

  /**
   * Ask the server where the conversation stands.
   *
   * @throws ConversationNotFound it does not exist, or belongs to somebody else.
   * @throws Timeout no answer in time, also over reconnections.
   * @throws ConnectionClosed the connection has ended for good.
   */
  async state(options: WaitOptions = {}): Promise<State> {
    return toState(await this.#ask({ type: "state" }, options));
  }

  /**
   * Ask for messages, oldest first: the newest `limit` (1-100), or those below the offset `before`.
   *
   * @throws BadRequest `limit` is out of range.
   * @throws ParleyError as `state`.
   */
  async history(
    options: WaitOptions & { before?: number | null; limit?: number } = {},
  ): Promise<HistoryPage> {
    const { before, limit = 50 } = options;
    const page = await this.#ask({ type: "history", before, limit }, options);
    return { messages: items(page.messages).map(toMessage), before: page.before ?? null };
  }

  // --- watching -----------------------------------------------------------------------------

  /**
   * Iterate over all that happens from now on, other devices included.
   *
   * Events come once each, in order, over reconnections; where too much was missed, a `snapshot` takes their
   * place. A reader that falls behind by more than `eventBuffer` gets `EventsOverflow`. `break` leaves it; when
   * the server ends the subscription, `unsubscribed` is the last one.
   */
  events(options: { signal?: AbortSignal | undefined } = {}): Stream<AnyEvent> {
    this.#watch();
    return streamInto(this.#streams, this.#connection.eventBuffer, options.signal);
  }

  /**
   * Call `listener` with each event of this type from now on; `event` is every type. Begins to watch.
   *
   * @returns what ends that.
   */
  on<Type extends keyof ConversationEvents>(
    type: Type,
    listener: (event: ConversationEvents[Type]) => void,
  ): () => void {
    this.#watch();
    return added(this.#listeners, { type, listener });
  }

  /**
   * Wait until `messages` and `snapshot` hold what the server has.
   *
   * @throws Refused the conversation may not be watched.
   * @throws Timeout no answer in time.
   * @throws ConnectionClosed the connection has ended for good.
   */
  async ready(options: WaitOptions = {}): Promise<void> {
    this.#watch();
    const { limit } = this.#connection;
    if (!this.#chat.isLive()) {
      await limit(this.#ready.promise, within(options), "the conversation was not ready in time");
    }
  }

  /** The newest messages that this client knows, oldest first (at most 1,000); the same array until one changes. */
  get messages(): readonly Message[] {
    return this.#mirror.messages();
  }

  /**
   * Return the open requests that `accept`, `reject` or `answer` decide, oldest first: what this client knows
   * without asking, once the conversation is watched (`ready`). What a plain message answers is not among them:
   * that is in `snapshot.pending` too, as kind `input`.
   */
  pending(kind?: "acceptance" | "clarification"): readonly Pending[] {
    return this.#mirror
      .pending()
      .filter((request) => (kind ? request.kind === kind : request.kind !== "input"));
  }

  /** All that this client knows of the conversation, without asking the server. */
  get snapshot(): Snapshot {
    return this.#mirror.snapshot(this.#chat.partials());
  }

  /** Up to where events were handed out; as `resume` it goes on there later. */
  get cursor(): Cursor {
    return this.#chat.cursor();
  }

  /** Stop watching and waiting. Commands that were taken are still sent, and still take effect. */
  close(): void {
    if (!this.#ended) {
      this.#onEnd(new ConnectionClosed(protocol.CLOSE_NORMAL, "this conversation was closed"));
      this.#connection.forget(this.conversationId);
    }
  }

  // --- commands -----------------------------------------------------------------------------

  #process(options: SendOptions): Raw {
    const { text, payload, metadata, processingHints: processing_hints } = options;
    if (text == null && payload == null) {
      throw errorFromWire({ code: "bad_request", message: "give text or payload", field: "content.text" });
    }
    const type = options.contentType ?? (payload == null ? "text" : "button");
    return {
      type: "process",
      content: given({ type, text, payload, metadata }),
      flow_id: options.flowId ?? this.#defaults.flowId,
      channel: options.channel ?? this.#defaults.channel,
      user_id: options.userId ?? this.#defaults.userId,
      on_busy: options.onBusy,
      processing_hints,
    };
  }

  #call(key: string = this.#connection.newId()): Call {
    return { key, waiter: waiter() };
  }

  async #run(frame: Raw, options: CommandOptions): Promise<Turn> {
    options.signal?.throwIfAborted();
    const call = this.#call(options.idempotencyKey);
    this.#command(frame, call);
    return this.#end(call, options);
  }

  #command(frame: Raw, call: Call): void {
    this.#watch();
    const whole = {
      ...given(frame),
      conversation_id: this.conversationId,
      idempotency_key: call.key,
    };
    this.#calls.add(call);
    try {
      this.#connection.perform(() => this.#chat.submit(whole));
    } catch (error) {
      this.#calls.delete(call);
      throw error;
    }
  }

  /** Wait for the end of a caller's turn, for as long as the caller wants to. */
  async #end(call: Call, options: WaitOptions): Promise<Turn> {
    try {
      const late = `the turn did not end within ${options.timeoutMs} ms; the command stands`;
      return await this.#connection.limit(call.waiter.promise, options, late);
    } finally {
      if (this.#calls.delete(call) && !this.#callsOf(call.key).length) {
        this.#chat.abandon(call.key);
      }
    }
  }

  /** What the session knows of it. */
  get #chat() {
    return this.#connection.session.chat(this.conversationId);
  }

  #callsOf(key: unknown): Call[] {
    return [...this.#calls].filter((call) => call.key === key);
  }

  #watch(): void {
    this.#check();
    const { perform, start } = this.#connection;
    start();
    if (!this.#chat.isWanted()) {
      const resume = this.#resume;
      this.#resume = null;
      perform(() => this.#chat.watch(resume));
    }
  }

  #ask(frame: Raw, options: WaitOptions): Promise<Raw> {
    this.#check();
    const whole = given({ ...frame, conversation_id: this.conversationId });
    return this.#connection.request(whole, options).then(mapping);
  }

  #check(): void {
    if (this.#ended) {
      throw this.#ended;
    }
    this.#connection.check();
  }

  // --- what the connection tells ------------------------------------------------------------

  #onEnd(error: ParleyError): void {
    this.#ended = error;
    this.#release(true);
    this.#fail(this.#calls, error);
    const normal = (error as ConnectionClosed).closeCode === protocol.CLOSE_NORMAL;
    this.#finishStreams(normal ? null : error);
    this.#answerReady(error);
  }

  #onDispatch(epoch: string, to: number, events: readonly Raw[]): void {
    this.#deaf = false;
    this.#mirror.apply(epoch, to, events);
    for (const raw of events) {
      const calls = this.#callsOf(raw.command_id);
      for (const call of calls) {
        call.executionId = raw.execution_id ?? call.executionId;
        call.sawEnd = protocol.isTurnEnd(raw.type);
      }
      this.#tell(parseEvent(this.conversationId, raw), (call) => calls.includes(call));
    }
    this.#release();
  }

  #onDetached(error: ParleyError, forget: boolean): void {
    if (forget) {
      this.#mirror.clear();
    }
    this.#tell({ type: "unsubscribed", conversation_id: this.conversationId, error });
    if (!this.#chat.isWanted()) {
      // otherwise it is forgotten, but still watched: it may begin anew
      this.#finishStreams(null);
      this.#fail(this.#calls, error);
      this.#answerReady(error);
    }
  }

  #finishStreams(error: unknown): void {
    for (const stream of this.#streams) {
      stream.finish(error);
    }
    this.#streams.clear();
  }

  /** Hand an event to who reads all, to listeners, and to the callers that it concerns. */
  #tell(event: AnyEvent, concerns: (call: Call) => boolean = () => false): void {
    for (const stream of this.#streams) {
      stream.push(event);
    }
    for (const call of this.#calls) {
      if (concerns(call)) {
        call.stream?.push(event);
      }
    }
    for (const { type, listener } of [...this.#listeners]) {
      if (type === "event" || type === event.type) {
        guarded(() => listener(event as never));
      }
    }
  }

  #fail(calls: Iterable<Call>, error: unknown): void {
    for (const call of calls) {
      this.#calls.delete(call);
      call.waiter.reject(error);
    }
  }

  #answerReady(error?: ParleyError): void {
    const { resolve, reject } = this.#ready;
    this.#ready = waiter();
    if (error) {
      reject(error);
    } else {
      resolve();
    }
  }

  /** Finish the callers whose turn has ended and whose events, if they still come, have come. */
  #release(everything = false): void {
    const { epoch, offset } = this.cursor;
    const live = !everything && !this.#deaf && this.#chat.isLive();
    for (const settled of this.#held) {
      const [key, completed, data, through] = settled;
      if (!(live && through && (!epoch || (epoch === through.epoch && offset < through.offset)))) {
        this.#held.delete(settled);
        for (const call of this.#callsOf(key)) {
          this.#calls.delete(call);
          this.#finish(call, completed, data);
        }
      }
    }
    if (!this.#held.size) {
      this.#stopHolding?.();
      this.#stopHolding = null;
    }
  }

  #finish(
    { key, stream, waiter, executionId, duplicate, sawEnd }: Call,
    completed: boolean,
    data: Raw,
  ): void {
    const turn = toTurn(this.conversationId, key, data, completed, executionId, duplicate);
    if (stream) {
      if (!sawEnd) {
        // the event itself was skipped: this is what the ack's result stands for
        const type = completed ? "turn.completed" : "turn.failed";
        const raw = { type, execution_id: executionId, command_id: key, data };
        stream.push(parseEvent(this.conversationId, raw));
      }
      stream.turn = turn;
      stream.finish();
    }
    if (completed) {
      waiter.resolve(turn);
    } else {
      waiter.reject(new TurnFailed(errorFromWire(mapping(data.error)), turn));
    }
  }
}
