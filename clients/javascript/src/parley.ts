/**
 * The client that applications hold in hand. The work is done elsewhere.
 *
 * @module
 */
import type { Clock } from "./clock.js";
import { type Connection, type ConnectionEvent, createConnection, type Token } from "./connection.js";
import {
  type CommandOptions,
  Conversation,
  type ConversationOptions,
  type WaitOptions,
} from "./conversation.js";
import type { InboxEvent } from "./events.js";
import { ExecutionHandle, type LoadRemote } from "./execution.js";
import type { OutboxStore } from "./outbox.js";
import { restUrl, socketUrl } from "./protocol.js";
import type { Execution, InboxItem, JsonObject, Principal } from "./records.js";
import type { SocketClass } from "./sockets.js";
import { added, type Stream } from "./stream.js";

/** Of `new Parley`. */
export interface ParleyOptions {
  /**
   * A token, or a function (async or not) that returns one. It is called at each connect and when the server asks
   * for a fresh one; with a plain text, an expired token ends the connection. A `ParleyError` that it throws and
   * that is not `temporary` ends the connection too; anything else that it throws is tried again.
   */
  token?: Token | null | undefined;
  /** E.g. `en`. */
  locale?: string | undefined;
  /** E.g. `Europe/Paris`. */
  timezone?: string | undefined;
  /** Called with each frame's text, tokens struck out. */
  onFrame?: ((direction: "in" | "out", text: string) => void) | undefined;
  /**
   * Keeps the commands that are not yet acknowledged, so that they survive this page or process: `browserOutbox()`,
   * `fileOutbox(path)` of `parley-client/node`, or one of your own. Left out, the outbox ends with the page.
   */
  outbox?: OutboxStore | undefined;
  /** Commands that may wait for their acknowledgement; `OutboxFull` beyond. 100. */
  outboxLimit?: number | undefined;
  /** How large they may be together, where they are kept; the same. 4 MiB. */
  outboxBytes?: number | undefined;
  /** Events that a reader may leave unread; `EventsOverflow` beyond. 1,000. */
  eventBuffer?: number | undefined;
  /** Another WebSocket class than the runtime's. */
  WebSocket?: SocketClass | undefined;
  /** Uniform in [0, 1), for the pauses. */
  random?: (() => number) | undefined;
  /** For tests. */
  clock?: Clock | undefined;
  /** Makes conversation ids and idempotency keys; 128 random bits. */
  newId?: (() => string) | undefined;
}

/** Of `parley.start`. */
export interface StartOptions extends CommandOptions {
  /** Values of its slots and variables, by name. */
  initialContext?: JsonObject | undefined;
  /** What the flow reads as `input`. */
  input?: unknown;
  /** Of the flow; left out, the newest. */
  version?: number | undefined;
  /** Where it runs; left out, the server makes a conversation for it. */
  conversationId?: string | undefined;
  /**
   * Whose conversation that is. Left out, it is your own; or, if you have the scope `conversations:write`,
   * nobody's: a workflow that only scopes reach.
   */
  userId?: string | undefined;
  /** For lists. */
  projectId?: string | undefined;
  /** Where the person is, if there is one; api if left out. */
  channel?: string | undefined;
  /** One of your own, for the record. */
  requestId?: string | undefined;
  /** What its events, logs and outgoing calls carry. */
  correlationId?: string | undefined;
  /**
   * What to do where another run has not ended: `ConversationBusy` is thrown unless this says enqueue or
   * interrupt. The run then has no id yet; watch its conversation.
   */
  onBusy?: "enqueue" | "reject" | "interrupt" | undefined;
}

/** Of `parley.executions`: what to list. */
export interface ListOptions extends WaitOptions {
  /** E.g. `waiting_acceptance`. */
  status?: string | undefined;
  flowId?: string | undefined;
  projectId?: string | undefined;
  /** Only in this user's conversations. */
  userId?: string | undefined;
  /** Only those last active then or later; a `Date`, or ISO 8601. */
  since?: Date | string | undefined;
  /** Only those last active before. */
  until?: Date | string | undefined;
  /** How many to ask for at once, 1-100. */
  pageSize?: number | undefined;
}

/**
 * A connection to a Parley server that comes back by itself.
 *
 *     const parley = new Parley("http://127.0.0.1:8765", { token });
 *     const chat = parley.conversation("c1");
 *     for await (const event of chat.send("I need an appointment")) {
 *       console.log(event);
 *     }
 *     await parley.close();
 *
 * It connects at its first use, or by `connect`.
 */
export class Parley {
  /** The WebSocket URL. */
  declare readonly url: string;
  /** Where REST calls go, without a slash at its end. */
  declare readonly restUrl: string;
  #connection: Connection;
  #remote: LoadRemote;

  /**
   * @param url `http(s)://` or `ws(s)://`, with or without the path; never with a token in it.
   * @throws TypeError the URL is none, or holds credentials.
   */
  constructor(url: string | URL, options: ParleyOptions = {}) {
    this.url = socketUrl(url);
    this.restUrl = restUrl(this.url);
    const connection = createConnection(this.url, options);
    this.#connection = connection;
    let loaded: ReturnType<LoadRemote> | null = null;
    this.#remote = () => {
      loaded ??= import("./remote.js").then(({ createRemote }) => createRemote(this.restUrl, connection));
      loaded.catch(() => {
        loaded = null; // offline, perhaps; the next call asks again
      });
      return loaded;
    };
  }

  /**
   * Connect, and stay connected until `close`.
   *
   * @throws Refused (`Unauthorized`, `TokenExpired`, `PermissionDenied`, ...) the server refused the credential.
   * @throws ConnectionClosed the server closed with a code after which one does not return.
   * @throws ConnectionLost no connection within `timeoutMs` (30,000), attempts included.
   */
  async connect(options: WaitOptions = {}): Promise<void> {
    await this.#connection.open(options);
  }

  /** Close the connection and end what waits with `ConnectionClosed(1000)`; may be called twice. */
  async close(): Promise<void> {
    await this.#connection.close();
  }

  /**
   * Return a conversation; the same object for the same id until it is closed.
   *
   * Nothing is sent before its first use. A new one is made by the first message.
   *
   * @param conversationId left out, it is 128 random bits. Blanks around it do not count.
   * @throws ConnectionClosed the client is closed.
   */
  conversation(conversationId?: string | null, options: ConversationOptions = {}): Conversation {
    const connection = this.#connection;
    connection.check();
    // as the server does it, which would tell of it under another id than was asked for
    const id = conversationId?.trim() ?? connection.newId();
    return connection.chats.get(id)?.conversation ?? new Conversation(connection, id, options);
  }

  // --- over REST: these need no open connection ---------------------------------------------

  /**
   * Start a flow without saying anything; the run goes on whoever watches.
   *
   * @throws FlowNotFound there is no such flow.
   * @throws ConversationBusy another run of this conversation has not ended.
   * @throws BadRequest a value does not fit; `field` names it.
   * @throws Refused the server refused it for another reason.
   * @throws ConnectionLost no answer, after several attempts; it may have started.
   * @throws Timeout the same within `timeoutMs`.
   */
  async start(flowId: string, options: StartOptions = {}): Promise<ExecutionHandle> {
    const remote = await this.#remote();
    return new ExecutionHandle(this.#remote, await remote.start(flowId, options));
  }

  /** Return a run that was started earlier, or by somebody else; nothing is asked yet. */
  execution(executionId: string): ExecutionHandle {
    return new ExecutionHandle(this.#remote, { execution_id: executionId });
  }

  /**
   * Iterate over the runs that this principal may see, page after page: `for await (const run of ...)`.
   *
   * @throws ParleyError as `start`.
   */
  async *executions(options: ListOptions = {}): AsyncGenerator<Execution, void, undefined> {
    yield* (await this.#remote()).executions(options);
  }

  /**
   * Iterate over what waits for a person in the whole tenant: `for await (const item of parley.inbox())`.
   *
   * Who may decide nothing for others finds it empty.
   *
   * @throws ParleyError as `start`.
   */
  async *inbox(
    options: WaitOptions & { pageSize?: number } = {},
  ): AsyncGenerator<InboxItem, void, undefined> {
    yield* (await this.#remote()).inbox(options);
  }

  /**
   * Iterate over what comes to wait for this principal in the whole tenant, and what is settled.
   *
   * First comes what waits now, an `opened` each, and `ready` behind it. A broken connection is made anew, for as
   * long as this is read; what was settled in between is told then.
   *
   * @throws Unauthorized, TokenExpired: the credential is not taken any more.
   */
  async *inboxEvents(options: { signal?: AbortSignal } = {}): AsyncGenerator<InboxEvent, void, undefined> {
    yield* (await this.#remote()).inboxEvents(options.signal);
  }

  // --- the connection -----------------------------------------------------------------------

  /** Call `listener` with each event of the connection; returns what ends that. */
  on(_type: "connection", listener: (event: ConnectionEvent) => void): () => void {
    return added(this.#connection.listeners, listener);
  }

  /** Iterate over what happens to the connection from now on; ends when it is closed for good. */
  connectionEvents(options: { signal?: AbortSignal } = {}): Stream<ConnectionEvent> {
    return this.#connection.watch(options.signal);
  }

  /** Whether the server has said welcome and the connection stands, as far as is known. */
  get connected(): boolean {
    return this.#connection.isOnline();
  }

  /** How many commands wait for their acknowledgement, those that an earlier page left included. */
  get unacknowledged(): number {
    return this.#connection.session.unacknowledged();
  }

  /** Who the server takes this client for; null before the first welcome. */
  get principal(): Principal | null {
    return this.#connection.principal();
  }
}
