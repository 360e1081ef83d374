/**
 * The shell around the session: sockets, timers, tokens, pauses. It decides nothing about the protocol.
 *
 * @module
 */
import { FallbackSocket } from "#socket";
import { type Clock, fullJitter, LAST_BACKOFF_MS, Waiter } from "./clock.js";
import type { Conversation } from "./conversation.js";
import {
  ConnectionClosed,
  ConnectionLost,
  errorFromWire,
  OutboxUnusable,
  ParleyError,
  Timeout,
  TokenExpired,
} from "./errors.js";
import type { Outbox } from "./outbox.js";
import * as protocol from "./protocol.js";
import type { Raw } from "./records.js";
import type { Offline, Output, Session } from "./session.js";
import type { SocketClass, SocketLike } from "./sockets.js";
import { type Stream, whenAborted } from "./stream.js";

/** A token, or what is called for one at each connect and whenever the server asks for a fresh one. */
export type Token = string | (() => string | null | Promise<string | null>);

/** A connection that held this long lets the next pause begin short again. */
const STEADY_MS = 5_000;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 2_000;
const TOKEN_TIMEOUT_MS = 30_000;
/** How long a crowd that comes back online at one moment is spread. */
const HINT_SPREAD_MS = 500;

/** What happened to the connection. */
export interface ConnectionEvent {
  readonly type: "connection";
  /**
   * `connecting`, `connected`, `disconnected` (it comes back) or `closed` (it does not); `trouble` is an error
   * that belongs to no call, e.g. a token that was not accepted.
   */
  readonly state: "connecting" | "connected" | "disconnected" | "closed" | "trouble";
  /** How many connections were tried since the last good one. */
  readonly attempt: number;
  /** The close code. */
  readonly code: number | null;
  /** What the server, or the network, said. */
  readonly reason: string;
  /** Milliseconds until the next attempt. */
  readonly retryInMs: number | null;
  /** What ended it, or the trouble. */
  readonly error: unknown;
}

export interface Shell {
  url: string;
  token: Token | null;
  session: Session;
  clock: Clock;
  random: () => number;
  newId: () => string;
  eventBuffer: number;
  outbox: Outbox | null;
  socketClass: SocketClass | undefined;
  onFrame: ((direction: "in" | "out", text: string) => void) | null;
  told: (event: ConnectionEvent) => void;
}

export class Connection {
  readonly chats = new Map<string, Conversation>();
  readonly watchers = new Set<Stream<ConnectionEvent>>();
  welcome: Raw | null = null;
  #shell: Shell;
  #requests = new Map<number, Waiter<unknown>>();
  #socket: SocketLike | null = null;
  #opened: Waiter<void> | null = null;
  #outputs: Output[] = [];
  #performing = false;
  #stopTimer = () => {};
  #timerDue = Number.POSITIVE_INFINITY;
  #stopPause: (() => void) | null = null;
  #stopHints = () => {};
  #welcomedAt: number | null = null;
  #attempt = 0;
  #trouble: unknown = null;
  #fatal: ParleyError | null = null;
  #restored = new Set<string>();

  constructor(shell: Shell) {
    this.#shell = shell;
  }

  get session(): Session {
    return this.#shell.session;
  }

  get clock(): Clock {
    return this.#shell.clock;
  }

  get eventBuffer(): number {
    return this.#shell.eventBuffer;
  }

  newId(): string {
    return this.#shell.newId();
  }

  // --- life ---------------------------------------------------------------------------------

  /** Connect, and stay connected until `close`. */
  start(): void {
    if (!this.#opened) {
      this.#opened = new Waiter();
      this.#stopHints = listen(() => this.#hint());
      void this.#begin();
    }
  }

  /** Do the same, and wait until the server has said welcome. */
  async open(timeoutMs: number | null, signal?: AbortSignal): Promise<void> {
    this.check();
    this.start();
    const waiter = new Waiter<void>();
    this.#opened?.promise.then(
      () => waiter.resolve(),
      (error) => waiter.reject(error),
    );
    const late = () =>
      new ConnectionLost(`no connection to ${this.#shell.url} in time`, { cause: this.#trouble });
    try {
      await this.limit(waiter, timeoutMs, signal, late);
    } catch (error) {
      void this.close();
      throw error;
    }
  }

  /** Close the connection and end all that waits; may be called twice. */
  async close(): Promise<void> {
    const socket = this.#socket;
    this.end(new ConnectionClosed(protocol.CLOSE_NORMAL, "closed by this side"));
    if (socket) {
      const closed = new Waiter<void>();
      this.limit(closed, CLOSE_TIMEOUT_MS).catch(() => {});
      socket.onclose = () => closed.resolve();
      await closed.promise.catch(() => {});
    }
  }

  /** Whether the server has said welcome, and nothing has ended since. */
  get online(): boolean {
    return this.session.online && !this.#fatal;
  }

  /** Throw what ended this connection, if it has ended. */
  check(): void {
    if (this.#fatal) {
      throw this.#fatal;
    }
  }

  /** Closed for good: tell everybody, once. */
  end(error: ParleyError): void {
    if (this.#fatal) {
      return;
    }
    this.#fatal = error;
    this.#stopTimer();
    this.#stopPause?.();
    this.#stopHints();
    this.#release()?.close(protocol.CLOSE_NORMAL);
    for (const chat of [...this.chats.values()]) {
      chat.onEnd(error);
    }
    this.chats.clear();
    for (const [id, waiter] of this.#requests) {
      this.session.withdraw(id);
      waiter.reject(error);
    }
    this.#requests.clear();
    this.#opened?.reject(error);
    this.#shell.outbox?.close();
    const code = error instanceof ConnectionClosed ? error.closeCode : null;
    this.#emit({ state: "closed", code, reason: error.message, error });
    for (const stream of this.watchers) {
      stream.finish();
    }
  }

  // --- for the conversations ----------------------------------------------------------------

  /**
   * Let the session take a step, and do what comes out, in order. What is done may lead to further steps (a
   * listener that sends); their outputs queue up behind.
   */
  perform(step: (session: Session, now: number) => Output[]): void {
    this.#outputs.push(...step(this.session, this.#now()));
    if (this.#performing) {
      return;
    }
    this.#performing = true;
    try {
      for (let output = this.#outputs.shift(); output; output = this.#outputs.shift()) {
        this.#do(output);
      }
    } finally {
      this.#performing = false;
    }
    this.#arm();
  }

  /** A conversation was closed. */
  forget(chat: Conversation): void {
    const { conversationId } = chat;
    if (this.chats.get(conversationId) === chat) {
      this.chats.delete(conversationId);
      this.perform((session, now) => session.unwatch(conversationId, now));
    }
  }

  /** Ask and wait; reconnections in between are not noticed. */
  async request(frame: Raw, timeoutMs: number | null, signal?: AbortSignal): Promise<Raw> {
    const waiter = new Waiter<unknown>();
    let id = 0;
    this.start();
    this.perform((session, now) =>
      session.request(frame, now, (given) => {
        id = given;
        this.#requests.set(id, waiter);
      }),
    );
    try {
      const late = () => new Timeout(`no answer to ${frame.type} in time`);
      return (await this.limit(waiter, timeoutMs, signal, late)) as Raw;
    } finally {
      if (this.#requests.delete(id)) {
        this.session.withdraw(id);
      }
    }
  }

  /** Wait for at most `timeoutMs` of this client's clock, and until `signal` is aborted. */
  limit<T>(
    waiter: Waiter<T>,
    timeoutMs: number | null,
    signal?: AbortSignal,
    late: () => ParleyError = () => new Timeout("the time is up"),
  ): Promise<T> {
    if (timeoutMs !== null) {
      waiter.atEnd(this.clock.callLater(timeoutMs, () => waiter.reject(late())));
    }
    if (signal) {
      waiter.atEnd(whenAborted(signal, (reason) => waiter.reject(reason)));
    }
    return waiter.promise;
  }

  /** Return a token from its source; null where there is none. What the source throws comes through. */
  async getToken(): Promise<string | null> {
    const { token } = this.#shell;
    if (typeof token !== "function") {
      return token;
    }
    const waiter = new Waiter<string | null>();
    new Promise<string | null>((resolve) => resolve(token())).then(
      (found) => waiter.resolve(found),
      (error) => waiter.reject(error),
    );
    return this.limit(waiter, TOKEN_TIMEOUT_MS);
  }

  // --- connecting ---------------------------------------------------------------------------

  async #begin(): Promise<void> {
    const { outbox, url, session } = this.#shell;
    try {
      const frames = (await outbox?.open(url)) ?? [];
      session.restore(frames);
      this.#restored = new Set(frames.map((frame) => frame.idempotency_key));
    } catch (cause) {
      const why = { code: "outbox_unreadable", cause };
      this.end(
        cause instanceof ParleyError
          ? cause
          : new OutboxUnusable(`The outbox cannot be read: ${cause}.`, why),
      );
    }
    await this.#connect();
  }

  async #connect(): Promise<void> {
    if (this.#fatal) {
      return;
    }
    this.#stopPause = null;
    this.#welcomedAt = null;
    this.#emit({ state: "connecting" });
    try {
      const token = await this.getToken();
      if (!this.#fatal) {
        this.#attach(token);
      }
    } catch (error) {
      this.#trouble = error;
      if (error instanceof ParleyError && !error.temporary) {
        this.end(error); // the token's source says that there will be none
      } else {
        this.#closed(protocol.CLOSE_ABNORMAL, String(error));
      }
    }
  }

  #attach(token: string | null): void {
    const { url, socketClass } = this.#shell;
    const Socket = socketClass ?? (globalThis.WebSocket as unknown as SocketClass) ?? FallbackSocket;
    if (!Socket) {
      throw new ParleyError("This runtime has no WebSocket: give one as the option `WebSocket`.");
    }
    const socket = new Socket(url, protocol.SUBPROTOCOL);
    this.#socket = socket;
    const stopWaiting = this.clock.callLater(HANDSHAKE_TIMEOUT_MS, () =>
      this.#lost(protocol.CLOSE_ABNORMAL, "no answer to the handshake"),
    );
    socket.onopen = () => {
      stopWaiting();
      this.#trouble = null;
      this.perform((session, now) => session.opened(token, now));
    };
    socket.onmessage = ({ data }: { data: unknown }) => {
      this.#record("in", String(data));
      this.perform((session, now) => session.receive(data, now));
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      stopWaiting();
      this.#lost(code, reason);
    };
    socket.onerror = () => {}; // close follows, and says what can be known
  }

  /** This socket is of no use any more. */
  #lost(code: number, reason: string): void {
    this.#release()?.close();
    this.#closed(code, reason);
  }

  #closed(code: number, reason: string): void {
    this.perform((session, now) => session.closed(code, reason, now));
  }

  /** Hear and send no more through the present socket; returns it. */
  #release(): SocketLike | null {
    const socket = this.#socket;
    this.#socket = null;
    this.#stopTimer();
    this.#timerDue = Number.POSITIVE_INFINITY;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
    }
    return socket;
  }

  #pause(offline: Offline): void {
    const { clock, random } = this.#shell;
    const held = this.#welcomedAt !== null && clock.now() - this.#welcomedAt >= STEADY_MS;
    if (offline.progress || held) {
      this.#attempt = 0;
    }
    const retryInMs =
      offline.withinMs !== null && this.#attempt === 0
        ? random() * Math.min(LAST_BACKOFF_MS, offline.withinMs)
        : fullJitter(this.#attempt, random);
    this.#attempt += 1;
    this.#stopPause = clock.callLater(retryInMs, () => this.#connect());
    const { code, reason } = offline;
    const error = this.#trouble ?? (offline.error && errorFromWire(offline.error));
    this.#emit({ state: "disconnected", code, reason, retryInMs, error });
  }

  /** The network or the page is back, as the browser says: find out at once what that is worth. */
  #hint(): void {
    if (this.#stopPause) {
      this.#stopPause();
      this.#stopPause = this.clock.callLater(this.#shell.random() * HINT_SPREAD_MS, () => this.#connect());
    } else {
      this.#tick(); // timers stand still while a computer sleeps
      this.perform((session, now) => session.probe(now));
    }
  }

  // --- doing what the session says ----------------------------------------------------------

  #do(output: Output): void {
    switch (output.do) {
      case "send":
        if (this.#socket && !this.#fatal) {
          this.#record("out", output.secret ? protocol.withoutToken(output.text) : output.text);
          this.#socket.send(output.text);
        }
        return;
      case "answer":
        if (output.error) {
          this.#requests.get(output.requestId)?.reject(errorFromWire(output.error));
        } else {
          this.#requests.get(output.requestId)?.resolve(output.result);
        }
        this.#requests.delete(output.requestId);
        return;
      case "needToken":
        return void this.#refreshToken();
      case "close":
        return this.#lost(output.code, output.reason);
      case "online":
        return this.#online(output.welcome);
      case "offline":
        return this.#offline(output);
      case "complaint":
        return this.#emit({ state: "trouble", error: errorFromWire(output.error) });
      case "refusal":
        if (this.#restored.delete(output.key)) {
          const reason = `the command ${output.key}, kept from earlier, was refused`;
          this.#emit({ state: "trouble", error: errorFromWire(output.error), reason });
        }
    }
    this.chats.get(output.conversationId)?.onOutput(output);
  }

  #online(welcome: Raw): void {
    this.welcome = welcome;
    const { tenant_id, user_id } = welcome.principal ?? {};
    const others = this.#shell.outbox?.own(`${tenant_id}/${user_id}`);
    if (others?.length) {
      // they may be among what is about to leave: begin again without them
      const error = new OutboxUnusable(
        "Commands of another user are left in the outbox; they were not sent.",
        {
          code: "outbox_of_another",
        },
      );
      this.#emit({ state: "trouble", error });
      this.session.disown(others);
      this.#lost(protocol.CLOSE_ABNORMAL, error.message);
      return;
    }
    this.#welcomedAt = this.clock.now();
    this.#emit({ state: "connected" });
    this.#opened?.resolve();
  }

  #offline(offline: Offline): void {
    for (const chat of [...this.chats.values()]) {
      chat.onOffline();
    }
    const error = offline.error && errorFromWire(offline.error);
    if (!offline.reconnect) {
      this.end(error ?? new ConnectionClosed(offline.code, offline.reason));
    } else if (error instanceof TokenExpired && typeof this.#shell.token !== "function") {
      this.end(error); // the same token would be refused again
    } else if (!this.#fatal) {
      this.#pause(offline);
    }
  }

  async #refreshToken(): Promise<void> {
    if (typeof this.#shell.token === "function") {
      try {
        const token = await this.getToken();
        if (token !== null) {
          this.perform((session, now) => session.token(token, now));
        }
      } catch (error) {
        this.#emit({ state: "trouble", error, reason: "no fresh token" });
      }
    }
  }

  // --- telling ------------------------------------------------------------------------------

  #emit(told: Partial<ConnectionEvent>): void {
    const event: ConnectionEvent = {
      type: "connection",
      state: "trouble",
      attempt: this.#attempt,
      code: null,
      reason: "",
      retryInMs: null,
      error: null,
      ...told,
    };
    for (const stream of this.watchers) {
      stream.push(event);
    }
    this.#shell.told(event);
  }

  #record(direction: "in" | "out", text: string): void {
    try {
      this.#shell.onFrame?.(direction, text);
    } catch (error) {
      console.error("onFrame threw", error);
    }
  }

  // --- time ---------------------------------------------------------------------------------

  #now(): number {
    return Math.floor(this.clock.now());
  }

  /** Have the session ticked when it is due. A timer that fires early just finds nothing to do. */
  #arm(): void {
    const due = this.session.wakeup();
    if (this.#fatal || due === Number.POSITIVE_INFINITY || this.#timerDue <= due) {
      return;
    }
    this.#stopTimer();
    this.#timerDue = due;
    this.#stopTimer = this.clock.callLater(Math.max(0, due - this.clock.now()), () => {
      this.#timerDue = Number.POSITIVE_INFINITY;
      this.#tick();
    });
  }

  #tick(): void {
    this.perform((session, now) => session.tick(now));
  }
}

/** Have `hint` called when the browser says that network or page are back; returns what ends that. */
function listen(hint: () => void): () => void {
  const { document } = globalThis;
  const onVisible = () => document.visibilityState === "visible" && hint();
  const found: [EventTarget | undefined, string, () => void][] = [
    [globalThis as unknown as EventTarget, "online", hint],
    [globalThis as unknown as EventTarget, "pageshow", hint],
    [document, "visibilitychange", onVisible],
  ];
  for (const [target, type, listener] of found) {
    target?.addEventListener?.(type, listener);
  }
  return () => {
    for (const [target, type, listener] of found) {
      target?.removeEventListener?.(type, listener);
    }
  };
}
