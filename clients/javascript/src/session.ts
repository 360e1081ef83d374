/**
 * The client's half of `parley.v1` as a state machine without I/O, clock or randomness.
 *
 * Texts and tokens are passed in, time comes from a function, and what is to be done is told in order, as calls that
 * the shell makes once the step is over. All times are milliseconds of any monotonic clock. It is the machine of the
 * Python client, held to the same vectors; what it does and why is written there, in
 * `clients/python/src/parley_client/_session.py`, rule by rule. In short:
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
 * It is one function, with one for each conversation in it, and their variables are the state: a minifier shortens
 * variables, and a page loads what it may not shorten (decision 45).
 *
 * @module
 */
import { errorFromWire, OutboxFull } from "./errors.js";
import * as protocol from "./protocol.js";
import { type Cursor, given, hasEnded, items, kindOf, mapping, type Raw } from "./records.js";

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
export const NEVER = 1 / 0;

/** What the session tells its shell to do or to know: names, and what comes with them. */
interface ToShell {
  /** Write this text frame. `secret` frames hold a token and must not be logged as they are. */
  send: [text: string, secret?: boolean];
  /** Give up the socket now, without waiting for the other side; then call `closed`. */
  close: [code: number, reason: string];
  /** Get a fresh token and hand it to `token`. */
  needToken: [];
  /** `welcome` came. */
  online: [welcome: Raw];
  /** The connection is gone. */
  offline: [how: Offline];
  /** An error that belongs to no command or request. */
  complaint: [error: Raw];
  /** The result of this asker's request, or the error that ended it. */
  answer: [asker: unknown, result: unknown, error: Raw | null];
}

/** What one conversation is told; its id comes first. */
interface ToChat {
  /** These events are next, in order; the cursor is at `to` already. */
  dispatch: [epoch: string, to: number, events: Raw[]];
  /** A `snapshot` frame replaces all that was known. */
  replace: [snapshot: Raw];
  /** The next piece of a message that is being written. */
  delta: [frame: Raw];
  typing: [frame: Raw];
  /** The subscription stands; replay or snapshot, if any, follows. */
  watching: [recovered: boolean];
  /** It is no longer watched. `forget`: it is gone, cursor and outbox were dropped. */
  detached: [error: Raw, forget: boolean];
  /** The command was acknowledged (once for each ack). */
  accepted: [key: string, ack: Raw];
  /** A temporary error; the command is sent again after `afterMs`. */
  retry: [key: string, afterMs: number, error: Raw];
  /** The command's turn has ended; `through`: the turn's events lie at or below it, where an ack told. */
  settled: [key: string, completed: boolean, data: Raw, through: Cursor | null];
  /** The command has ended in this error; it changed nothing. */
  refusal: [key: string, error: Raw];
}

type Told<Calls extends Record<keyof Calls, unknown[]>, First extends unknown[] = []> = {
  [Name in keyof Calls]: [name: Name, ...First, ...Calls[Name]];
}[keyof Calls];
type Does<Calls extends Record<keyof Calls, unknown[]>> = {
  [Name in keyof Calls]: (...told: Calls[Name]) => void;
};

/** One call that the session wants made. */
export type Output = Told<ToShell> | Told<ToChat, [conversationId: string]>;
/** Who does what the session says. */
export type ShellSide = Does<ToShell>;
/** Who hears what concerns one conversation. */
export type ChatSide = Does<ToChat>;

export interface Offline {
  /** Whether to open another one. */
  reconnect: boolean;
  code: number;
  reason: string;
  /** The error object with which `hello` was refused. */
  error: Raw | null;
  /** The server asks to spread the return over this time. */
  withinMs: number | null | undefined;
  /** Something was acknowledged or dispatched, so the pause may begin short again. */
  progress: boolean;
}

/** Keeps commands until they are acknowledged. */
export interface Journal {
  /** Make a command durable; throws `OutboxFull` or `OutboxUnusable`, nothing being taken. */
  keep(frame: Raw, size: number): void;
  /** Drop a command, if it is there. */
  release(conversationId: string, key: string): void;
}

export interface SessionOptions {
  now: () => number;
  /** Takes what is to be done. It must do it only after the step that told it. */
  tell: (...output: Output) => void;
  outboxLimit?: number | undefined;
  /** More fields of `hello`: `locale`, `timezone`. */
  hello?: Raw;
  /** Keeps commands over the end of the page or process. */
  journal?: Journal | undefined;
}

interface Command {
  key: string;
  body: string;
  /** `on_busy: reject`: a busy conversation is an answer. */
  impatient: boolean;
  tries: number;
  acked?: boolean;
  settled?: boolean;
  /** Nobody waits for its outcome. */
  orphan: boolean;
  /** Its turn may lie among events that a snapshot replaced. */
  doubtful?: boolean;
}

interface Request {
  body: string;
  tries: number;
}

type Answered = (frame: Raw) => void;

const OFFLINE = 0;
const GREETING = 1;
const ONLINE = 2;
const CLOSING = 3;

// where a watched conversation stands on this connection
const NONE = 0;
const SUBSCRIBING = 1;
const AWAITING_SNAPSHOT = 2;
const LIVE = 3;

// what may leave, most urgent first
const CONTROL = 0;
const ASKING = 1;
const COMMANDS = 2;

/** The server sent what is not a frame. */
class Unreadable extends Error {}

const ignore = () => {};

/** Return a field that must be there, of the same kind as one of these. */
function need<T>(frame: Raw, name: string, ...alike: T[]): T {
  const value = frame[name];
  if (!alike.some((each) => kindOf(each) === kindOf(value))) {
    throw new Unreadable(`unreadable frame: field ${name}`);
  }
  return value;
}

const localError = (code: string, message: string, suggestion?: string): Raw => ({
  code,
  message,
  suggestion,
});
const BUSY = "conversation_busy";
const isMissing = (error: Raw) => error.code === "conversation_not_found";

/** Keep at most `limit` of a set or map; the oldest goes. */
function bound<T>(kept: { size: number; keys(): Iterable<T>; delete(key: T): void }, limit: number): void {
  if (kept.size > limit) {
    const [oldest] = kept.keys();
    kept.delete(oldest as T);
  }
}

export type Session = ReturnType<typeof createSession>;

/** One conversation: its cursor, its subscription and its commands. */
export interface Chat {
  /** Whether it is to be watched. */
  isWanted(): boolean;
  /** Whether events come in, without anything missing that is known of. */
  isLive(): boolean;
  /** Return the place up to which everything was dispatched. */
  cursor(): Cursor;
  /** Return the texts so far of the messages that are being written, by message id. */
  partials(): Record<string, string>;
  /** Watch it from now on, over reconnections; `from` is a cursor kept from before. */
  watch(from: Cursor | null): void;
  /** Stop watching. Commands on their way stay. */
  unwatch(): void;
  /**
   * Take a command: `frame` is complete but for its `id`, with an `idempotency_key`. The same command under a
   * key that has not settled is taken once.
   *
   * @throws OutboxFull nothing was taken.
   * @throws IdempotencyConflict another command with this key has not settled.
   * @throws InvalidFrame it cannot be written as JSON.
   */
  submit(frame: Raw): void;
  /** Take what an earlier page or process left, before the first connection; nobody waits for it. */
  restore(frame: Raw): void;
  /** Let go of what was restored and turned out to be somebody else's. */
  disown(frame: Raw): void;
  /** Nobody waits for this command any more. It is not undone; only its outcome is not asked for. */
  abandon(key: string): void;
  /** Tell that somebody types; a hint, dropped when offline or beyond the pace. */
  typing(typing: boolean): void;

  /** The server ended its subscription. */
  detach(error: Raw): void;
  /** Its subscription travels in `hello`; returns what says so. */
  hail(): Raw;
  /** The server said welcome; `about`: to this conversation. */
  welcome(frame: Raw, about: boolean): void;
  events(frame: Raw): void;
  snapshot(frame: Raw): void;
  delta(frame: Raw): void;
  ping(offsets: Raw): void;
  /** The connection is gone: what was unacknowledged goes back to the front of its queue. */
  hold(stateLost: boolean): void;
}

/** Make the state machine of one client. After each step, and before what it told is done, call `pump`. */
export function createSession({ now, tell, outboxLimit = 100, hello: greeting, journal }: SessionOptions) {
  const chats = new Map<string, Chat>();
  const requests = new Map<unknown, Request>();
  let state = OFFLINE;
  let unacked = 0;
  let nextId = 0;
  // of the present connection
  const answers = new Map<unknown, [onAck: Answered, onError: Answered]>();
  let lanes: (() => void)[][] = [[], [], []];
  let timers: [due: number, action: () => void][] = [];
  let helloId = "";
  let helloAbout = "";
  let helloError: Raw | null = null;
  let farewell: Raw | null = null;
  let progress = false;
  let heard = 0;
  let probe: unknown = null;
  let silence = (protocol.PING_INTERVAL_S + protocol.SILENCE_GRACE_S) * 1000;
  let maxFrame = protocol.MAX_FRAME_BYTES;
  // pace: tokens of a bucket; 0 is without limit
  let ratePerMs = 0;
  let burst = 1;
  let tokens = 1;
  let filled = 0;

  // --- connection ---------------------------------------------------------------------------

  const isOnline = () => state === ONLINE;

  function giveUp(code: number, reason: string): void {
    if (state !== CLOSING) {
      state = CLOSING;
      tell("close", code, reason);
    }
  }

  /** Do this when so much time has passed, if the connection still stands. */
  function later(ms: number, action: () => void): void {
    timers.push([now() + ms, action]);
    timers.sort(([a], [b]) => a - b);
  }

  /** Take a token of the bucket, if there is one. */
  function maySend(): boolean {
    tokens = Math.min(burst, tokens + (now() - filled) * ratePerMs);
    filled = now();
    if (ratePerMs && tokens < 1) {
      return false;
    }
    tokens -= 1;
    return true;
  }

  const mayLeave = () => isOnline() && !farewell;

  /** Put an id in front of a frame's JSON, send it, and remember who wants the answer. */
  function transmit(body: string, onAck: Answered, onError: Answered, secret = false): string {
    nextId += 1;
    const id = `${nextId}`;
    answers.set(id, [onAck, onError]);
    tell("send", `{"id":"${id}",${body.slice(1)}`, secret);
    return id;
  }

  /** Transmit what an application made: it may be larger than the server takes. */
  function deliver(body: string, onAck: Answered, onError: Answered): void {
    // an id adds at most 28 bytes
    if (new TextEncoder().encode(body).length > maxFrame - 28) {
      const message = `The frame is larger than the server's ${maxFrame} bytes.`;
      onError(localError("payload_too_large", message, "Send less at once."));
    } else {
      transmit(body, onAck, onError);
    }
  }

  const complain = (error: Raw) => tell("complaint", error);

  /**
   * After a temporary error try again, in a while.
   *
   * @returns how long that is, in milliseconds; null: the error is final.
   */
  function retry(what: { tries: number }, error: Raw, action: () => void): number | null {
    const wait = Math.max(0, error.retry_after_ms ?? Math.min(LAST_RETRY_MS, FIRST_RETRY_MS << what.tries));
    if (!error.temporary || what.tries >= MAX_TRIES || wait > MAX_RETRY_MS) {
      return null;
    }
    what.tries += 1;
    later(wait, action);
    return wait;
  }

  // --- requests -----------------------------------------------------------------------------

  function answer(asker: unknown, result: unknown, error: Raw | null): void {
    if (requests.delete(asker)) {
      tell("answer", asker, result, error);
    }
  }

  function ask(asker: unknown, request: Request): void {
    lanes[ASKING]?.push(() => {
      if (requests.has(asker)) {
        deliver(
          request.body,
          ({ result }) => answer(asker, result, null),
          (error) => retry(request, error, () => ask(asker, request)) ?? answer(asker, null, error),
        );
      }
    });
  }

  // --- conversations ------------------------------------------------------------------------

  /** Return one conversation: its cursor, its subscription and its commands. It is kept while it has any of them. */
  const chat = (id: string) => chats.get(id) ?? createChat(id);

  function unsubscribe(conversation_id: string): void {
    transmit(protocol.encode({ type: "unsubscribe", conversation_id }), ignore, ignore);
  }

  function createChat(id: string): Chat {
    let wanted = false;
    let phase = NONE;
    let epoch: string | null = null;
    let offset = 0;
    /** The id of the `subscribe` that has no answer yet. */
    let asked = "";
    let strikes = 0;
    let patience = 0;
    let queue: Command[] = [];
    let inflight: Command | null = null;
    let paused = false;
    let offered = false;
    const subscription = { tries: 0 };
    const streams = new Map<string, { text: string; next: number }>();
    const finished = new Set<string>();
    const commands = new Map<string, Command>();

    const cursor = (): Cursor => ({ epoch, offset });

    function tidy(): void {
      if (!wanted && !commands.size && !inflight) {
        chats.delete(id);
      }
    }

    function forgetCursor(): void {
      epoch = null;
      offset = 0;
    }

    // --- its subscription -------------------------------------------------------------------

    function subscribe(): void {
      phase = SUBSCRIBING;
      asked = "";
      patience = 1;
      subscription.tries = 0;
      lanes[CONTROL]?.push(sendSubscribe);
    }

    function sendSubscribe(): void {
      if (phase !== SUBSCRIBING || asked) {
        return;
      }
      // after resumes that moved nothing, only a snapshot can help
      const resume = strikes <= STRIKES_TO_SNAPSHOT && (epoch || strikes) ? cursor() : undefined;
      const frame = { type: "subscribe", conversation_id: id, resume };
      const mine = transmit(
        protocol.encode(frame),
        (ack) => asked === mine && subscribed(need(ack, "result", {})),
        (error) => {
          if (asked === mine) {
            asked = "";
            // who is told when to come back does so, however long the store is away
            const tried = error.retry_after_ms ? { tries: 0 } : subscription;
            retry(tried, error, () => lanes[CONTROL]?.push(sendSubscribe)) ?? detach(error);
          }
        },
      );
      asked = mine;
    }

    function resume(): void {
      strikes += 1;
      if (strikes > STRIKES_TO_CLOSE) {
        giveUp(protocol.CLOSE_PROTOCOL_ERROR, "events do not continue");
      } else {
        subscribe();
      }
    }

    /** Take `welcome` or the `result` of `subscribe`'s ack; neither moves the cursor. */
    function subscribed({ recovered }: Raw): void {
      phase = recovered ? LIVE : AWAITING_SNAPSHOT;
      asked = "";
      patience = 1;
      tell("watching", id, recovered);
      offer();
    }

    function detach(error: Raw): void {
      wanted = false;
      phase = NONE;
      lose(error, isMissing(error));
    }

    /** What happens to it is no longer told, or (`forget`) it is gone: tell whoever waits. */
    function lose(error: Raw, forget: boolean): void {
      streams.clear();
      if (forget) {
        forgetCursor();
        finished.clear();
      }
      tell("detached", id, error, forget);
      for (const command of [...commands.values()]) {
        if (!command.settled && (forget || command.acked)) {
          refuse(command, error); // its turn can no longer be seen
        }
      }
      offer();
      tidy();
    }

    // --- its commands -----------------------------------------------------------------------

    function take({ idempotency_key: key, on_busy }: Raw, body: string, orphan: boolean): void {
      const impatient = !orphan && on_busy === "reject";
      const command = { key, body, impatient, orphan, tries: 0 };
      chats.set(id, self);
      commands.set(key, command);
      // what an earlier page left goes before what this one has said since
      queue[orphan ? "unshift" : "push"](command);
      unacked += 1;
      offer();
    }

    /** Whether the next command may leave: the subscription's answer is there, or nobody asked for one. */
    const isFree = () => (!wanted || phase > SUBSCRIBING) && queue.length && !inflight && !paused;

    /** Let the next command leave, if nothing stands before it. */
    function offer(): void {
      if (isOnline() && !offered && isFree()) {
        offered = true;
        lanes[COMMANDS]?.push(() => {
          offered = false;
          if (isFree()) {
            const next = queue.shift() as Command;
            inflight = next;
            deliver(
              next.body,
              (ack) => acked(next, ack),
              (error) => refused(next, error),
            );
          }
        });
      }
    }

    function acked(command: Command, ack: Raw): void {
      const { status, result } = ack;
      inflight = null;
      progress = true;
      acknowledge(command);
      if (!command.settled) {
        tell("accepted", id, command.key, ack);
        if (hasEnded(status) && (result || ack.duplicate || !wanted)) {
          settle(command, status === "completed", result, { epoch: null, offset: 0, ...ack });
        } else if (command.doubtful && !command.orphan) {
          command.doubtful = false;
          queue.unshift(command);
        }
      }
      if (command.settled || command.orphan) {
        drop(command);
      }
      offer();
    }

    function refused(command: Command, error: Raw): void {
      const isStale = error.code === "token_expired"; // a fresh one mends that
      inflight = null;
      const again = () => {
        paused = false;
        offer();
      };
      if (command.settled) {
        drop(command); // the event told already; the error is about a resend
      } else {
        const temporary = isStale || (error.temporary && !(command.impatient && error.code === BUSY));
        const afterMs = retry(command, { ...error, temporary }, again);
        if (afterMs === null) {
          refuse(command, error);
        } else {
          queue.unshift(command);
          paused = true;
          if (isStale) {
            tell("needToken");
          }
          tell("retry", id, command.key, afterMs, error);
        }
      }
      offer();
    }

    function release({ key }: Command): void {
      journal?.release(id, key);
    }

    function acknowledge(command: Command): void {
      release(command);
      if (!command.acked) {
        command.acked = true;
        unacked -= 1;
      }
    }

    function settle(command: Command, completed: boolean, data: unknown, through: Cursor | null): void {
      tell("settled", id, command.key, completed, mapping(data), through);
      end(command);
    }

    function refuse(command: Command, error: Raw): void {
      tell("refusal", id, command.key, error);
      end(command);
    }

    /** Its outcome is told. While its ack is still to come, the next one waits for that. */
    function end(command: Command): void {
      command.settled = true;
      release(command);
      if (inflight !== command) {
        drop(command);
        offer();
      }
    }

    function drop(command: Command): void {
      acknowledge(command);
      if (commands.get(command.key) === command) {
        commands.delete(command.key);
      }
      queue = queue.filter((other) => other !== command);
      tidy();
    }

    /** Events were skipped: ask for the outcome of what was accepted, in order, before what is new. */
    function askAgain(): void {
      const open = [...commands.values()].filter(
        (each) => each.acked && !each.settled && each !== inflight && !queue.includes(each),
      );
      queue.unshift(...open);
      offer();
    }

    // --- its frames -------------------------------------------------------------------------

    /** Whether events and pieces of messages go on where it stands. */
    const isFollowing = () => phase && phase !== AWAITING_SNAPSHOT;

    /** Draw from an event what concerns commands and streams. */
    function fold({ type, command_id, data }: Raw): void {
      if (protocol.isTurnEnd(type)) {
        const command = commands.get(command_id);
        if (command && !command.settled) {
          settle(command, type === "turn.completed", data, null);
        }
      } else if (type === "message.completed" || type === "message.retracted") {
        const message = mapping(data).message_id;
        streams.delete(message);
        finished.add(message);
        bound(finished, MAX_FINISHED);
      }
    }

    const self: Chat = {
      cursor,
      detach,

      isWanted: () => wanted,

      isLive: () => isOnline() && phase === LIVE,

      partials: () => Object.fromEntries([...streams].map(([message, { text }]) => [message, text])),

      watch(from) {
        if (!wanted) {
          wanted = true;
          chats.set(id, self);
          if (from && !epoch) {
            ({ epoch, offset } = from);
          }
          if (isOnline()) {
            subscribe();
          }
        }
      },

      unwatch() {
        if (wanted) {
          wanted = false;
          streams.clear();
          if (isOnline() && phase) {
            lanes[CONTROL]?.push(() => unsubscribe(id));
          }
          phase = NONE;
          asked = "";
          offer();
          tidy();
        }
      },

      submit(frame) {
        const body = protocol.encode(frame);
        const known = commands.get(frame.idempotency_key);
        if (!known) {
          if (unacked >= outboxLimit) {
            throw new OutboxFull(`${unacked} commands wait for their acknowledgement`);
          }
          journal?.keep(frame, body.length);
          take(frame, body, false);
        } else if (known.body === body) {
          known.orphan = false;
        } else {
          throw errorFromWire({
            code: "idempotency_conflict",
            message: "another command with this idempotency key is on its way",
            field: "idempotency_key",
          });
        }
      },

      restore(frame) {
        if (!commands.has(frame.idempotency_key)) {
          take(frame, protocol.encode(frame), true);
        }
      },

      disown({ idempotency_key }) {
        const command = commands.get(idempotency_key);
        if (command && !command.acked) {
          if (inflight === command) {
            inflight = null;
          }
          command.settled = true;
          drop(command);
        }
      },

      abandon(key) {
        const command = commands.get(key);
        if (command) {
          command.orphan = true;
          if (command.acked && inflight !== command) {
            drop(command);
          }
        }
      },

      typing(typing) {
        if (mayLeave() && maySend()) {
          tell("send", protocol.encode({ type: "typing", conversation_id: id, typing }));
        }
      },

      hail() {
        phase = SUBSCRIBING;
        return { conversation_id: id, resume: epoch && cursor() };
      },

      welcome(frame, about) {
        if (!wanted) {
          askAgain();
        } else if (about) {
          subscribed(frame);
        } else {
          subscribe();
        }
      },

      events(frame) {
        const told = need(frame, "epoch", "");
        const from = need<number>(frame, "from", 0);
        const to = need<number>(frame, "to", 0);
        const same = told === epoch;
        const known = same ? offset : 0;
        if (!isFollowing() || (same && to <= known)) {
          return;
        }
        if (same ? from > known + 1 : epoch || from !== 1) {
          if (phase === LIVE) {
            resume();
          }
          return;
        }
        const events = need<Raw[]>(frame, "events", []).filter(
          (event) => need<number>(mapping(event), "offset", 0) > known,
        );
        epoch = told;
        offset = to;
        strikes = 0;
        progress = true;
        tell("dispatch", id, told, to, events);
        events.forEach(fold);
      },

      snapshot(frame) {
        if (!phase) {
          return;
        }
        const told = need(frame, "epoch", "", null);
        const gone = epoch && !told;
        offset = need(frame, "offset", 0);
        epoch = told;
        strikes = 0;
        if (phase === AWAITING_SNAPSHOT) {
          phase = LIVE;
        }
        streams.clear();
        for (const partial of items(frame.partials)) {
          const text = need(partial, "text", "");
          streams.set(need(partial, "message_id", ""), { text, next: need(partial, "next_index", 0) });
        }
        tell("replace", id, frame);
        if (inflight) {
          inflight.doubtful = true;
        }
        if (gone) {
          lose(localError("conversation_not_found", "The conversation does not exist."), true);
        } else {
          askAgain();
        }
      },

      delta(frame) {
        const message = need(frame, "message_id", "");
        const index = need<number>(frame, "index", 0);
        if (isFollowing()) {
          if (!index && !streams.has(message) && !finished.has(message)) {
            streams.set(message, { text: "", next: 0 });
            bound(streams, MAX_STREAMS);
          }
          const stream = streams.get(message);
          // behind a hole `next` stays where it is, so nothing of this message continues it any more
          if (stream?.next === index) {
            stream.next += 1;
            stream.text += need(frame, "delta", "");
            tell("delta", id, frame);
          }
        }
      },

      ping(offsets) {
        if (phase === LIVE && offsets[id] > offset) {
          resume();
        }
        if (phase === AWAITING_SNAPSHOT || asked) {
          patience -= 1;
          if (patience < 0) {
            resume();
          }
        } else if (phase === LIVE && !Object.hasOwn(offsets, id)) {
          askAgain();
        }
      },

      hold(stateLost) {
        const command = inflight;
        phase = NONE;
        asked = "";
        strikes = 0;
        paused = offered = false;
        inflight = null;
        if (stateLost) {
          forgetCursor();
        }
        if (command?.settled) {
          drop(command);
        } else if (command) {
          queue.unshift(command);
        }
        tidy();
      },
    };
    return self;
  }

  // --- frames -------------------------------------------------------------------------------

  /** Return the conversation that a frame is about. */
  const about = (frame: Raw) => chat(need(frame, "conversation_id", ""));

  /** Return who waits for this answer, once. */
  function asker(id: string | null) {
    const found = answers.get(id);
    answers.delete(id);
    return found;
  }

  const handlers: Record<string, ((frame: Raw) => void) | null> = {
    __proto__: null, // a type is anything

    welcome(frame) {
      if (state !== GREETING || frame.id !== helloId) {
        return;
      }
      answers.delete(helloId);
      state = ONLINE;
      const { ping_interval, limits } = frame;
      if (ping_interval > 0) {
        silence = (ping_interval + protocol.SILENCE_GRACE_S) * 1000;
      }
      const { max_frame_bytes: size, frames_per_second: rate } = mapping(limits);
      maxFrame = size > 0 ? size : protocol.MAX_FRAME_BYTES;
      ratePerMs = rate > 0 ? rate / 1000 : 0;
      burst = tokens = Math.max(1, 2 * (rate || 0) - PACE_MARGIN);
      filled = now();
      tell("online", frame);
      if (helloAbout && !chat(helloAbout).isWanted()) {
        const id = helloAbout;
        lanes[CONTROL]?.push(() => unsubscribe(id));
      }
      for (const [id, each] of chats) {
        each.welcome(frame, id === helloAbout);
      }
      for (const [asking, request] of requests) {
        ask(asking, request);
      }
    },

    ack(frame) {
      asker(need(frame, "id", ""))?.[0](frame);
    },

    error(frame) {
      const error = need(frame, "error", {});
      (asker(need(frame, "id", "", null))?.[1] ?? complain)(error);
    },

    events: (frame) => about(frame).events(frame),
    snapshot: (frame) => about(frame).snapshot(frame),
    "message.delta": (frame) => about(frame).delta(frame),

    unsubscribed(frame) {
      if (about(frame).isWanted()) {
        about(frame).detach(
          localError(`${frame.code || "unsubscribed"}`, "The server ended the subscription."),
        );
      }
    },

    ping(frame) {
      maySend(); // counts, but is never held back
      tell("send", '{"type":"pong"}');
      for (const each of chats.values()) {
        each.ping(mapping(frame.offsets));
      }
    },

    "auth.required": () => tell("needToken"),

    typing(frame) {
      if (about(frame).isWanted()) {
        tell("typing", frame.conversation_id, frame);
      }
    },

    disconnect(frame) {
      need(frame, "code", 0);
      need(frame, "reason", "");
      farewell = frame;
      later(DRAIN_MS, () => giveUp(protocol.CLOSE_NORMAL, "the server is leaving"));
    },
  };

  return {
    // --- what the application asks ----------------------------------------------------------

    chat,

    /** Whether `welcome` came and the socket has not been given up. */
    isOnline,

    /** Return how many commands wait for their acknowledgement. */
    unacknowledged: () => unacked,

    /**
     * Ask something that changes nothing (`state`, `history`); `answer` names the asker.
     *
     * @throws OutboxFull too many requests are open.
     * @throws InvalidFrame it cannot be written as JSON.
     */
    request(asker: unknown, frame: Raw): void {
      const request = { body: protocol.encode(frame), tries: 0 };
      if (requests.size >= outboxLimit) {
        throw new OutboxFull(`${requests.size} requests wait for their answer`);
      }
      requests.set(asker, request);
      if (isOnline()) {
        ask(asker, request);
      }
    },

    /** Nobody waits for this request any more. */
    withdraw(asker: unknown): void {
      requests.delete(asker);
    },

    /** Hand in the token that `needToken` asked for. */
    token(token: string): void {
      if (isOnline()) {
        transmit(protocol.encode({ type: "auth", token }), ignore, complain, true);
      }
    },

    /** The network may have changed: ask for a sign of life, and give the socket up where none comes. */
    probe(): void {
      if (isOnline() && !probe && maySend()) {
        const mine = {};
        probe = mine;
        later(PROBE_MS, () => probe === mine && giveUp(protocol.CLOSE_NO_PONG, "silence"));
        unsubscribe("probe"); // any answer will do; nothing is watched by this name
      }
    },

    // --- what the connection tells ----------------------------------------------------------

    /** A new socket is open: greet. The first watched conversation travels in `hello`. */
    opened(token: string | null): void {
      state = GREETING;
      heard = now();
      later(
        protocol.GREETING_MS,
        () => state === GREETING && giveUp(protocol.CLOSE_NO_PONG, "no welcome in time"),
      );
      const first = [...chats].find(([, each]) => each.isWanted());
      const hello = given({
        type: "hello",
        token,
        client: { name: protocol.CLIENT_NAME, version: protocol.VERSION },
        ...greeting,
        ...first?.[1].hail(),
      });
      helloAbout = first?.[0] ?? "";
      helloId = transmit(protocol.encode(hello), ignore, (error) => (helloError = error), true);
    },

    /** A message came. What is no frame of this protocol ends the connection (it reconnects). */
    receive(text: unknown): void {
      if (state !== GREETING && !isOnline()) {
        return;
      }
      heard = now();
      probe = null;
      try {
        const frame = parse(text);
        handlers[need(frame, "type", "")]?.(frame);
      } catch (error) {
        if (!(error instanceof Unreadable)) {
          throw error;
        }
        giveUp(protocol.CLOSE_PROTOCOL_ERROR, error.message);
      }
    },

    /** The socket is gone, or could not be opened (1006). What was on its way waits for the next one. */
    closed(code: number, reason: string): void {
      if (state === CLOSING) {
        code = protocol.CLOSE_ABNORMAL; // this side gave it up; the policy for codes is about the server's
      } else if (farewell && (code === 1005 || code === protocol.CLOSE_ABNORMAL)) {
        code = farewell.code;
        reason ||= farewell.reason;
      }
      state = OFFLINE;
      let reconnect = protocol.mayReconnect(code);
      if (
        helloError &&
        (isMissing(helloError) || helloError.field === "conversation_id") &&
        chats.has(helloAbout)
      ) {
        // `hello` was refused for the conversation in it, or its id, alone: the others return
        chat(helloAbout).detach(helloError);
        helloError = null;
        reconnect = true;
      }
      tell("offline", {
        reconnect,
        code,
        reason,
        error: helloError,
        withinMs: farewell?.reconnect_within_ms,
        progress,
      });
      answers.clear();
      lanes = [[], [], []];
      timers = [];
      helloError = farewell = probe = null;
      progress = false;
      for (const each of [...chats.values()]) {
        each.hold(code === protocol.CLOSE_STATE_LOST);
      }
    },

    // --- time -------------------------------------------------------------------------------

    /** Let leave what may leave, most urgent first, at the pace that the server allows. */
    pump(): void {
      while (mayLeave()) {
        const lane = lanes.find(({ length }) => length);
        if (!lane || !maySend()) {
          return;
        }
        lane.shift()?.();
      }
    },

    /** When `tick` is due at the latest; Infinity while offline. */
    wakeup(): number {
      if (state !== GREETING && !isOnline()) {
        return NEVER;
      }
      const isHeld = ratePerMs && mayLeave() && lanes.some(({ length }) => length);
      return Math.min(
        heard + silence,
        timers[0]?.[0] ?? NEVER,
        isHeld ? filled + Math.floor((1 - tokens) / ratePerMs) + 1 : NEVER,
      );
    },

    /** Time has passed. */
    tick(): void {
      if (isOnline() && now() >= heard + silence) {
        giveUp(protocol.CLOSE_NO_PONG, "silence");
      }
      while (timers[0] && timers[0][0] <= now()) {
        timers.shift()?.[1]();
      }
    },
  };
}

function parse(text: unknown): Raw {
  let frame: unknown = null;
  try {
    frame = JSON.parse(text as string);
  } catch {
    // what is no JSON is no frame
  }
  if (kindOf(frame) !== "object") {
    throw new Unreadable("unreadable frame: not a JSON object");
  }
  return frame as Raw;
}
