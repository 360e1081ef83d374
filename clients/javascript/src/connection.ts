/**
 * The shell around the session: sockets, timers, tokens, pauses. It decides nothing about the protocol.
 *
 * @module
 */
import { FallbackSocket } from "#socket";
import { fullJitter, LAST_BACKOFF_MS, systemClock, type Waiter, waiter } from "./clock.js";
import type { Conversation, WaitOptions } from "./conversation.js";
import {
  ConnectionClosed,
  ConnectionLost,
  errorFromWire,
  OutboxUnusable,
  ParleyError,
  Timeout,
} from "./errors.js";
import { createOutbox, OUTBOX_BYTES } from "./outbox.js";
import type { ParleyOptions } from "./parley.js";
import * as protocol from "./protocol.js";
import type { Raw } from "./records.js";
import { type ChatSide, createSession, NEVER, type Output, type ShellSide } from "./session.js";
import type { SocketClass, SocketLike } from "./sockets.js";
import { type Stream, streamInto, whenAborted } from "./stream.js";

/** A token, or what is called for one at each connect and whenever the server asks for a fresh one. */
export type Token = string | (() => string | null | Promise<string | null>);

/** A connection that held this long lets the next pause begin short again. */
const STEADY_MS = 5_000;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 2_000;
const TOKEN_TIMEOUT_MS = 30_000;
const REQUEST_TIMEOUT_MS = 30_000;
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

/** A conversation, and how it is told what happens. */
interface Known {
  conversation: Conversation;
  told: Partial<ChatSide> & {
    /** What was held back for events is due: they may come as a snapshot now. */
    offline: () => void;
    /** Nothing more will come: the client or this conversation is closed. */
    end: (error: ParleyError) => void;
  };
}

/** Return how long to wait for the answer to a question. */
export const within = ({ timeoutMs = REQUEST_TIMEOUT_MS, signal }: WaitOptions) => ({ timeoutMs, signal });

/** Return 128 random bits in the alphabet of conversation ids and idempotency keys. */
const randomId = (): string => crypto.getRandomValues(new Uint32Array(4)).join("-");

export type Connection = ReturnType<typeof createConnection>;

export function createConnection(url: string, options: ParleyOptions) {
  const {
    token = null,
    locale,
    timezone,
    onFrame,
    outboxLimit,
    outboxBytes = OUTBOX_BYTES,
    eventBuffer = 1000,
    WebSocket: Socket = (globalThis.WebSocket as unknown as SocketClass) ?? FallbackSocket,
    random = Math.random,
    clock = systemClock,
    newId = randomId,
  } = options;
  const outbox = options.outbox && createOutbox(options.outbox, outboxBytes);
  const isRenewable = typeof token === "function";
  const chats = new Map<string, Known>();
  const watchers = new Set<Stream<ConnectionEvent>>();
  const listeners = new Set<(event: ConnectionEvent) => void>();
  const asked = new Set<Waiter<unknown>>();
  const outputs: Output[] = [];
  const session = createSession({
    now: () => Math.floor(clock.now()),
    tell: (...output) => outputs.push(output),
    outboxLimit,
    hello: { locale, timezone },
    journal: outbox,
  });
  let welcome: Raw | null = null;
  let socket: SocketLike | null = null;
  let opened: Waiter<void> | null = null;
  let performing = false;
  let stopTimer = () => {};
  let timerDue = NEVER;
  let stopPause: (() => void) | null = null;
  let stopHints = () => {};
  let welcomedAt = NEVER;
  let attempt = 0;
  let trouble: unknown = null;
  let fatal: ParleyError | null = null;
  let restored = new Set<string>();

  // --- life ---------------------------------------------------------------------------------

  /** Connect, and stay connected until `close`. */
  function start(): void {
    if (!opened) {
      opened = waiter();
      stopHints = listen(hint);
      void begin();
    }
  }

  /** Throw what ended this connection, if it has ended. */
  function check(): void {
    if (fatal) {
      throw fatal;
    }
  }

  /** Closed for good: tell everybody, once. */
  function end(error: ParleyError): void {
    if (fatal) {
      return;
    }
    fatal = error;
    stopPause?.();
    stopHints();
    release()?.close(protocol.CLOSE_NORMAL);
    for (const { told } of [...chats.values()]) {
      told.end(error);
    }
    chats.clear();
    for (const { reject } of asked) {
      reject(error);
    }
    opened?.reject(error);
    outbox?.close();
    const code = (error as ConnectionClosed).closeCode ?? null;
    emit("closed", { code, reason: error.message, error });
    for (const stream of watchers) {
      stream.finish();
    }
  }

  /** Close the connection and end all that waits; may be called twice. */
  async function close(): Promise<void> {
    const last = socket;
    end(new ConnectionClosed(protocol.CLOSE_NORMAL, "closed by this side"));
    if (last) {
      const closed = new Promise<unknown>((resolve) => {
        last.onclose = resolve;
      });
      await limit(closed, { timeoutMs: CLOSE_TIMEOUT_MS }).catch(() => {});
    }
  }

  // --- doing what the session says ----------------------------------------------------------

  const shellSide: ShellSide = {
    send(text, secret) {
      if (socket && !fatal) {
        record("out", secret ? protocol.withoutToken(text) : text);
        socket.send(text);
      }
    },

    close: lost,

    async needToken() {
      if (isRenewable) {
        try {
          const fresh = await getToken();
          if (fresh !== null) {
            perform(() => session.token(fresh));
          }
        } catch (error) {
          emit("trouble", { error, reason: "no fresh token" });
        }
      }
    },

    online(frame) {
      welcome = frame;
      const { tenant_id, user_id } = frame.principal ?? {};
      const others = outbox?.own(`${tenant_id}/${user_id}`);
      if (others?.length) {
        // they may be among what is about to leave: begin again without them
        const message = "Commands of another user are left in the outbox; they were not sent.";
        emit("trouble", { error: new OutboxUnusable(message, { code: "outbox_of_another" }) });
        for (const frame of others) {
          session.chat(frame.conversation_id).disown(frame);
        }
        lost(protocol.CLOSE_ABNORMAL, message);
        return;
      }
      welcomedAt = clock.now();
      emit("connected");
      opened?.resolve();
    },

    offline(how) {
      for (const { told } of [...chats.values()]) {
        told.offline();
      }
      const error = how.error && errorFromWire(how.error);
      if (!how.reconnect) {
        end(error ?? new ConnectionClosed(how.code, how.reason));
      } else if (error?.code === "token_expired" && !isRenewable) {
        end(error); // the same token would be refused again
      } else if (!fatal) {
        const { code, reason, withinMs } = how;
        if (how.progress || clock.now() - welcomedAt >= STEADY_MS) {
          attempt = 0;
        }
        const retryInMs =
          withinMs != null && !attempt
            ? random() * Math.min(LAST_BACKOFF_MS, withinMs)
            : fullJitter(attempt, random);
        attempt += 1;
        stopPause = clock.callLater(retryInMs, connect);
        emit("disconnected", { code, reason, retryInMs, error: trouble ?? error });
      }
    },

    complaint(error) {
      emit("trouble", { error: errorFromWire(error) });
    },

    answer(asker, result, error) {
      const { resolve, reject } = asker as Waiter<unknown>;
      if (error) {
        reject(errorFromWire(error));
      } else {
        resolve(result);
      }
    },
  };

  /**
   * Let the session take a step, and do what comes out, in order. What is done may lead to further steps (a
   * listener that sends); their outputs queue up behind.
   */
  function perform(step: () => void): void {
    step();
    session.pump();
    if (performing) {
      return;
    }
    performing = true;
    try {
      for (let output = outputs.shift(); output; output = outputs.shift()) {
        act(...(output as [string, ...unknown[]]));
      }
    } finally {
      performing = false;
    }
    const due = fatal ? NEVER : session.wakeup();
    if (due < timerDue) {
      stopTimer();
      timerDue = due;
      // one that fires early just finds nothing to do
      stopTimer = clock.callLater(Math.max(0, due - clock.now()), () => {
        timerDue = NEVER;
        perform(session.tick);
      });
    }
  }

  function act(name: string, ...told: unknown[]): void {
    const does = (shellSide as Calls)[name];
    if (does) {
      does(...told);
      return;
    }
    const [id, ...what] = told as [string, string, Raw];
    if (name === "refusal" && restored.delete(what[0])) {
      const reason = `the command ${what[0]}, kept from earlier, was refused`;
      emit("trouble", { error: errorFromWire(what[1]), reason });
    }
    (chats.get(id)?.told as Calls | undefined)?.[name]?.(...what);
  }

  // --- for the conversations ----------------------------------------------------------------

  /** Ask and wait; reconnections in between are not noticed. */
  async function request(frame: Raw, options: WaitOptions): Promise<unknown> {
    const asker = waiter<unknown>();
    start();
    perform(() => session.request(asker, frame));
    asked.add(asker);
    try {
      return await limit(asker.promise, within(options), `no answer to ${frame.type} in time`);
    } finally {
      asked.delete(asker);
      session.withdraw(asker);
    }
  }

  /** Wait for at most `timeoutMs` of this client's clock, and until `signal` is aborted. */
  function limit<T>(
    promise: Promise<T>,
    { timeoutMs, signal }: WaitOptions,
    late = "the time is up",
  ): Promise<T> {
    const { promise: limited, resolve, reject } = waiter<T>();
    const stop = timeoutMs == null ? null : clock.callLater(timeoutMs, () => reject(new Timeout(late)));
    const unhear = signal && whenAborted(signal, reject);
    promise.then(resolve, reject);
    return limited.finally(() => {
      stop?.();
      unhear?.();
    });
  }

  /** Return a token from its source; null where there is none. What the source throws comes through. */
  async function getToken(): Promise<string | null> {
    return isRenewable ? limit(Promise.resolve(token()), { timeoutMs: TOKEN_TIMEOUT_MS }) : token;
  }

  // --- connecting ---------------------------------------------------------------------------

  async function begin(): Promise<void> {
    try {
      const frames = (await outbox?.open(url)) ?? [];
      for (const frame of frames.reverse()) {
        session.chat(frame.conversation_id).restore(frame);
      }
      restored = new Set(frames.map((frame) => frame.idempotency_key));
    } catch (cause) {
      const why = { code: "outbox_unreadable", cause };
      end(
        cause instanceof ParleyError
          ? cause
          : new OutboxUnusable(`The outbox cannot be read: ${cause}.`, why),
      );
    }
    await connect();
  }

  async function connect(): Promise<void> {
    if (fatal) {
      return;
    }
    stopPause = null;
    welcomedAt = NEVER;
    emit("connecting");
    try {
      const given = await getToken();
      if (!fatal) {
        attach(given);
      }
    } catch (error) {
      trouble = error;
      if (error instanceof ParleyError && !error.temporary) {
        end(error); // the token's source says that there will be none
      } else {
        closed(protocol.CLOSE_ABNORMAL, String(error));
      }
    }
  }

  function attach(given: string | null): void {
    if (!Socket) {
      throw new ParleyError("This runtime has no WebSocket: give one as the option `WebSocket`.");
    }
    socket = new Socket(url, protocol.SUBPROTOCOL);
    stopTimer = clock.callLater(HANDSHAKE_TIMEOUT_MS, () =>
      lost(protocol.CLOSE_ABNORMAL, "no answer to the handshake"),
    );
    socket.onopen = () => {
      stopTimer();
      trouble = null;
      perform(() => session.opened(given));
    };
    socket.onmessage = ({ data }: { data: unknown }) => {
      record("in", String(data));
      perform(() => session.receive(data));
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => lost(code, reason);
    socket.onerror = () => {}; // close follows, and says what can be known
  }

  /** This socket is of no use any more. */
  function lost(code: number, reason: string): void {
    release()?.close();
    closed(code, reason);
  }

  function closed(code: number, reason: string): void {
    perform(() => session.closed(code, reason));
  }

  /** Hear and send no more through the present socket; returns it. */
  function release(): SocketLike | null {
    const last = socket;
    socket = null;
    stopTimer();
    timerDue = NEVER;
    if (last) {
      last.onopen = last.onmessage = last.onclose = null;
    }
    return last;
  }

  /** The network or the page is back, as the browser says: find out at once what that is worth. */
  function hint(): void {
    if (stopPause) {
      stopPause();
      stopPause = clock.callLater(random() * HINT_SPREAD_MS, connect);
    } else {
      perform(session.tick); // timers stand still while a computer sleeps
      perform(session.probe);
    }
  }

  // --- telling ------------------------------------------------------------------------------

  function emit(state: ConnectionEvent["state"], told: Partial<ConnectionEvent> = {}): void {
    const nothing = { code: null, reason: "", retryInMs: null, error: null };
    const event: ConnectionEvent = { type: "connection", state, attempt, ...nothing, ...told };
    for (const stream of watchers) {
      stream.push(event);
    }
    for (const listener of [...listeners]) {
      guarded(() => listener(event));
    }
  }

  const record = (direction: "in" | "out", text: string) => guarded(() => onFrame?.(direction, text));

  return {
    chats,
    listeners,
    session,
    clock,
    random,
    newId,
    eventBuffer,
    isRenewable,
    start,
    check,
    close,
    perform,
    request,
    limit,
    getToken,

    /** Connect, and wait until the server has said welcome. */
    async open(options: WaitOptions): Promise<void> {
      check();
      start();
      try {
        await limit((opened as Waiter<void>).promise, within(options));
      } catch (error) {
        void close();
        throw error instanceof Timeout
          ? new ConnectionLost(`no connection to ${url} in time`, { cause: trouble })
          : error;
      }
    },

    /** Whether the server has said welcome, and nothing has ended since. */
    isOnline: () => session.isOnline() && !fatal,

    /** Return what happens to the connection from now on. */
    watch(signal: AbortSignal | undefined): Stream<ConnectionEvent> {
      const stream = streamInto(watchers, eventBuffer, signal);
      if (fatal) {
        stream.finish();
      }
      return stream;
    },

    /** Who the server takes this client for. */
    principal: () => welcome?.principal ?? null,

    /** A conversation was closed. */
    forget(conversationId: string): void {
      chats.delete(conversationId);
      perform(session.chat(conversationId).unwatch);
    },
  };
}

type Calls = Partial<Record<string, (...told: unknown[]) => void>>;

/** Call a listener; what it throws keeps nothing from the others. */
export function guarded(call: () => void): void {
  try {
    call();
  } catch (error) {
    console.error("a listener threw", error);
  }
}

/** Have `hint` called when the browser says that network or page are back; returns what ends that. */
function listen(hint: () => void): () => void {
  const { document } = globalThis;
  const onVisible = () => document.visibilityState === "visible" && hint();
  const each = (verb: "addEventListener" | "removeEventListener") => {
    globalThis[verb]?.("online", hint);
    globalThis[verb]?.("pageshow", hint);
    document?.[verb]?.("visibilitychange", onVisible);
  };
  each("addEventListener");
  return () => each("removeEventListener");
}
