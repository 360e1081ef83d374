// The client's half of `parley.v1` for one conversation, as a state machine without I/O, clock or randomness.
//
// Text, time (ms of any monotonic clock) and tokens are passed in; each call returns a list of outputs
// `{do: ...}` in order: send {frame}, dispatch {events, epoch, to}, snapshot {frame}, delta {frame},
// accepted {key, ack}, settle {key, outcome: completed|failed|refused, error, data}, retry {key, after_ms},
// answer {name, result, error}, refresh_token, online {frame}, typing {frame}, complaint {error}, forget {error}, detach {error},
// close {reason}, reconnect {code, reason, within_ms, progress}, stop {code, reason, error}.
//
// The rules are those of the protocol page; the golden vectors of `protocol/vectors` prove them. What the
// Python SDK's session does beside (several conversations, pacing) a page for one person does not need.

const PING_INTERVAL_S = 25;
const SILENCE_GRACE_S = 10;
const GREETING_MS = 10_000;
const DRAIN_MS = 5_000;
const MAX_TRIES = 6;
const MAX_RETRY_MS = 30_000;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 8_000;
const STRIKES_TO_SNAPSHOT = 3;
const STRIKES_TO_CLOSE = 6;
const MAX_FINISHED = 64;
const MAX_STREAMS = 16;

const ABNORMAL = 1006;
const TOKEN_EXPIRED = 4002;
const STATE_LOST = 4005;
const FINAL_STANDARD_CLOSES = new Set([1000, 1002, 1003, 1007, 1008, 1009]);

/** Tell whether to reconnect after a close code: the range is the policy. */
export function mayReconnect(code) {
  return !(code >= 4500 && code <= 4999) && !FINAL_STANDARD_CLOSES.has(code);
}

/** How long to wait before the next connection, in ms: full jitter below a bound that doubles from 0.5 to 20 s. */
export function fullJitter(attempt, random) {
  return random() * Math.min(20_000, 500 * 2 ** Math.min(attempt, 16));
}

class Unreadable extends Error {}

function need(frame, name, ...kinds) {
  const value = frame?.[name];
  const kind = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
  if (!kinds.includes(kind)) throw new Unreadable(`field ${name}`);
  return value;
}

const NOT_FOUND = { code: "conversation_not_found", message: "The conversation does not exist.", temporary: false };

export class Session {
  #state = "offline"; // greeting, online, closing
  #phase = "none"; // subscribing, awaiting_snapshot, live, detached
  #out = [];
  #nextId = 0;
  #answers = new Map();
  #epoch = null;
  #offset = 0;
  #subscribeId = null;
  #subscribeTries = 0;
  #strikes = 0;
  #patience = 0;
  #streams = new Map(); // message id -> next index
  #finished = new Set();
  #commands = new Map(); // key -> command, until it has settled and is acknowledged
  #queue = [];
  #inflight = null;
  #paused = false;
  #requests = new Map();
  #timers = [];
  #hello = {};
  #helloId = "";
  #helloError = null;
  #farewell = null;
  #drainUntil = null;
  #progress = false;
  #heard = 0;
  #welcomeBy = 0;
  #silenceMs = (PING_INTERVAL_S + SILENCE_GRACE_S) * 1000;

  /**
   * @param conversationId the conversation.
   * @param hello what `hello` says beside token and conversation: client, locale, timezone.
   * @param cursor [epoch, offset] kept from before.
   */
  constructor(conversationId, { hello = {}, cursor = null } = {}) {
    this.conversationId = conversationId;
    this.#hello = hello;
    if (cursor !== null) [this.#epoch, this.#offset] = cursor;
  }

  // --- what the application asks ----------------------------------------------------------------

  /** Everything up to here was dispatched. */
  get cursor() {
    return [this.#epoch, this.#offset];
  }

  get online() {
    return this.#state === "online";
  }

  /** Take a command, complete but for `id` and `conversation_id`, with an `idempotency_key`. */
  submit(frame) {
    const key = frame.idempotency_key;
    if (!this.#commands.has(key)) {
      const body = { ...frame, conversation_id: this.conversationId };
      const command = { key, body, tries: 0, acked: false, settled: false, doubtful: false };
      this.#commands.set(key, command);
      this.#queue.push(command);
    }
    return this.#finish();
  }

  /** Ask what changes nothing (`history`, `state`); `name` names the answer. */
  request(name, frame) {
    const request = { name, body: { ...frame, conversation_id: this.conversationId }, tries: 0, sent: false };
    this.#requests.set(name, request);
    return this.#finish();
  }

  /** Hand in the token that `refresh_token` asked for. */
  token(token) {
    if (this.online) this.#transmit({ type: "auth", token }, null, (error) => this.#complain(error));
    return this.#finish();
  }

  // --- what the connection tells ----------------------------------------------------------------

  /** A new socket is open: greet. */
  opened(token, now) {
    this.#state = "greeting";
    this.#helloError = this.#farewell = this.#drainUntil = null;
    this.#progress = false;
    this.#heard = now;
    this.#welcomeBy = now + GREETING_MS;
    this.#answers.clear();
    this.#phase = "subscribing";
    const hello = { type: "hello", token, conversation_id: this.conversationId, ...this.#hello };
    if (this.#epoch !== null) hello.resume = this.#resumeFrom();
    this.#helloId = this.#transmit(hello, null, (error) => (this.#helloError = error));
    return this.#finish();
  }

  /** A text frame came. What is no frame of this protocol ends the connection (it reconnects). */
  receive(text, now) {
    if (this.#state !== "greeting" && this.#state !== "online") return [];
    this.#heard = now;
    try {
      if (typeof text !== "string") throw new Unreadable("a binary frame");
      let frame;
      try {
        frame = JSON.parse(text);
      } catch {
        throw new Unreadable("not JSON");
      }
      if (frame === null || typeof frame !== "object" || Array.isArray(frame)) throw new Unreadable("not an object");
      const type = need(frame, "type", "string");
      if (Object.hasOwn(Session.#handlers, type)) Session.#handlers[type](this, frame, now);
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      this.#giveUp(`unreadable frame: ${error.message}`);
    }
    return this.#finish();
  }

  /** The socket is gone, or could not be opened (1006). What was on its way waits for the next one. */
  closed(code, reason) {
    if (this.#state === "closing") {
      code = ABNORMAL; // this side gave it up; the policy for codes is about the server's
    } else if (this.#farewell !== null && (code === 1005 || code === ABNORMAL)) {
      code = this.#farewell.code;
      reason ||= this.#farewell.reason;
    }
    const within = this.#farewell?.reconnect_within_ms;
    this.#state = "offline";
    const gone = this.#helloError?.code === NOT_FOUND.code;
    if (gone) this.#detach(this.#helloError);
    if (code === TOKEN_EXPIRED) this.#tell("refresh_token");
    if (mayReconnect(code) && !gone) {
      this.#tell("reconnect", { code, reason, within_ms: Number.isInteger(within) ? within : null, progress: this.#progress });
    } else {
      this.#tell("stop", { code, reason, error: this.#helloError });
    }
    this.#answers.clear();
    this.#timers = [];
    for (const request of this.#requests.values()) request.sent = false;
    this.#hold(code === STATE_LOST);
    return this.#finish();
  }

  /** When `tick` is due at the latest; null while offline. */
  wakeup() {
    if (this.#state === "greeting") return this.#welcomeBy;
    if (this.#state !== "online") return null;
    const due = [this.#heard + this.#silenceMs, ...this.#timers.map((timer) => timer.due)];
    if (this.#drainUntil !== null) due.push(this.#drainUntil);
    return Math.min(...due);
  }

  /** Time has passed. */
  tick(now) {
    if (this.#state === "greeting" && now >= this.#welcomeBy) {
      this.#giveUp("no welcome in time");
    } else if (this.#state === "online") {
      if (now >= this.#heard + this.#silenceMs) this.#giveUp("silence");
      else if (this.#drainUntil !== null && now >= this.#drainUntil) this.#giveUp("the server is leaving");
      else {
        const due = this.#timers.filter((timer) => timer.due <= now);
        this.#timers = this.#timers.filter((timer) => timer.due > now);
        for (const timer of due) timer.action();
      }
    }
    return this.#finish();
  }

  // --- frames -----------------------------------------------------------------------------------

  static #handlers = {
    welcome: (session, frame) => session.#onWelcome(frame),
    ack: (session, frame, now) => session.#onAnswer(frame, now),
    error: (session, frame, now) => session.#onAnswer(frame, now),
    events: (session, frame) => session.#onEvents(frame),
    "message.delta": (session, frame) => session.#onDelta(frame),
    snapshot: (session, frame) => session.#onSnapshot(frame),
    unsubscribed: (session, frame) => session.#onUnsubscribed(frame),
    ping: (session, frame) => session.#onPing(frame),
    "auth.required": (session) => session.#tell("refresh_token"),
    typing: (session, frame) => session.#tell("typing", { frame }),
    disconnect: (session, frame, now) => session.#onDisconnect(frame, now),
  };

  #onWelcome(frame) {
    if (this.#state !== "greeting" || frame.id !== this.#helloId) return;
    this.#answers.delete(this.#helloId);
    this.#state = "online";
    if (typeof frame.ping_interval === "number" && frame.ping_interval > 0) {
      this.#silenceMs = (frame.ping_interval + SILENCE_GRACE_S) * 1000;
    }
    this.#tell("online", { frame });
    this.#subscribed(frame.recovered === true);
  }

  #onAnswer(frame, now) {
    const refused = frame.type === "error";
    const said = refused ? need(frame, "error", "object") : frame;
    const id = need(frame, "id", "string", ...(refused ? ["null"] : []));
    const waiting = this.#answers.get(id);
    this.#answers.delete(id);
    if (waiting !== undefined) waiting[refused ? 1 : 0]?.(said, now);
    else if (refused) this.#complain(said);
  }

  #onEvents(frame) {
    if (!this.#concerns(frame) || this.#phase === "awaiting_snapshot") return;
    const epoch = need(frame, "epoch", "string");
    const from = need(frame, "from", "number");
    const to = need(frame, "to", "number");
    const sameEpoch = epoch === this.#epoch;
    if (sameEpoch && to <= this.#offset) return;
    if (!(sameEpoch ? from <= this.#offset + 1 : this.#epoch === null && from === 1)) {
      if (this.#phase === "live") this.#resume();
      return;
    }
    let events = need(frame, "events", "array");
    for (const event of events) need({ event }, "event", "object");
    if (from <= this.#offset) events = events.filter((event) => need(event, "offset", "number") > this.#offset);
    [this.#epoch, this.#offset, this.#strikes, this.#progress] = [epoch, to, 0, true];
    this.#tell("dispatch", { events, epoch, to });
    for (const event of events) this.#fold(event);
  }

  #onSnapshot(frame) {
    if (!this.#concerns(frame)) return;
    const epoch = need(frame, "epoch", "string", "null");
    const offset = need(frame, "offset", "number");
    const gone = epoch === null && this.#epoch !== null;
    [this.#epoch, this.#offset, this.#strikes] = [epoch, offset, 0];
    if (this.#phase === "awaiting_snapshot") this.#phase = "live";
    this.#streams.clear();
    for (const partial of Array.isArray(frame.partials) ? frame.partials : []) {
      this.#streams.set(need(partial, "message_id", "string"), need(partial, "next_index", "number"));
    }
    this.#tell("snapshot", { frame });
    if (this.#inflight !== null) this.#inflight.doubtful = true; // its turn may lie among what was skipped
    if (gone) this.#forget(NOT_FOUND);
    else this.#askAgain();
  }

  #onDelta(frame) {
    if (!this.#concerns(frame) || this.#phase === "awaiting_snapshot") return;
    const id = need(frame, "message_id", "string");
    const index = need(frame, "index", "number");
    if (this.#finished.has(id)) return;
    if (!this.#streams.has(id) && index === 0) {
      this.#streams.set(id, 0);
      bound(this.#streams, MAX_STREAMS);
    }
    // behind a hole the next index stays where it is, so nothing of this message continues it any more
    if (this.#streams.get(id) !== index) return;
    this.#streams.set(id, index + 1);
    need(frame, "delta", "string");
    this.#tell("delta", { frame });
  }

  #onUnsubscribed(frame) {
    if (!this.#concerns(frame)) return;
    this.#detach({ ...NOT_FOUND, code: String(frame.code || "unsubscribed"), message: "The server ended the subscription." });
  }

  #onPing(frame) {
    this.#tell("send", { frame: { type: "pong" } });
    const offset = frame.offsets?.[this.conversationId];
    if (this.#phase === "live" && typeof offset === "number" && offset > this.#offset) this.#resume();
    else if (this.#phase === "live" && offset === undefined) this.#askAgain(); // detached in silence: who owns it?
    else if (this.#phase === "awaiting_snapshot" || this.#subscribeId !== null) {
      if (--this.#patience < 0) this.#resume();
    }
  }

  #onDisconnect(frame, now) {
    need(frame, "code", "number");
    need(frame, "reason", "string");
    this.#farewell = frame;
    this.#drainUntil = now + DRAIN_MS;
  }

  #concerns(frame) {
    const id = need(frame, "conversation_id", "string");
    return id === this.conversationId && ["subscribing", "awaiting_snapshot", "live"].includes(this.#phase);
  }

  // --- subscription -----------------------------------------------------------------------------

  #resumeFrom() {
    return { epoch: this.#epoch, offset: this.#offset };
  }

  #resume() {
    this.#strikes += 1;
    if (this.#strikes > STRIKES_TO_CLOSE) {
      this.#giveUp("events do not continue");
      return;
    }
    this.#phase = "subscribing";
    this.#subscribeId = null;
    this.#patience = 1;
    this.#subscribe();
  }

  #subscribe() {
    const frame = { type: "subscribe", conversation_id: this.conversationId };
    // after resumes that moved nothing, only a snapshot can help
    if (this.#strikes <= STRIKES_TO_SNAPSHOT) frame.resume = this.#resumeFrom();
    const id = this.#transmit(
      frame,
      (ack) => {
        if (this.#subscribeId === id) this.#subscribed(need(ack, "result", "object").recovered === true);
      },
      (error, now) => {
        if (this.#subscribeId === id) this.#subscriptionRefused(error, now);
      },
    );
    this.#subscribeId = id;
  }

  /** Neither `welcome` nor an ack moves the cursor. */
  #subscribed(recovered) {
    this.#phase = recovered ? "live" : "awaiting_snapshot";
    this.#subscribeId = null;
    this.#subscribeTries = 0;
    this.#patience = 1;
  }

  #subscriptionRefused(error, now) {
    const wait = retryWait(error, this.#subscribeTries);
    this.#subscribeId = null;
    if (wait === null) {
      this.#detach(error);
      return;
    }
    this.#subscribeTries += 1;
    this.#later(now + wait, () => {
      if (this.#phase === "subscribing" && this.#subscribeId === null) this.#subscribe();
    });
  }

  #detach(error) {
    this.#phase = "detached";
    if (error.code === NOT_FOUND.code) {
      this.#forget(error);
      return;
    }
    this.#streams.clear();
    this.#tell("detach", { error });
    for (const command of this.#commands.values()) if (command.acked) this.#refuse(command, error);
  }

  /** The conversation is gone: drop cursor and outbox, and tell. */
  #forget(error) {
    [this.#epoch, this.#offset] = [null, 0];
    this.#streams.clear();
    this.#finished.clear();
    this.#tell("forget", { error });
    for (const command of [...this.#commands.values()]) if (!command.settled) this.#refuse(command, error);
  }

  /** The connection is gone: what was unacknowledged goes back to the front of the queue. */
  #hold(forgetCursor) {
    if (this.#phase !== "detached") this.#phase = "none";
    this.#subscribeId = null;
    this.#strikes = 0;
    this.#paused = false;
    if (forgetCursor) [this.#epoch, this.#offset] = [null, 0];
    const command = this.#inflight;
    this.#inflight = null;
    if (command?.settled) this.#drop(command);
    else if (command) this.#queue.unshift(command);
  }

  // --- commands ---------------------------------------------------------------------------------

  #sendCommand() {
    const command = this.#queue.shift();
    this.#inflight = command;
    this.#transmit(
      command.body,
      (ack) => this.#acked(command, ack),
      (error, now) => this.#refused(command, error, now),
    );
  }

  #acked(command, ack) {
    this.#inflight = null;
    this.#progress = true;
    if (command.settled) {
      this.#drop(command);
      return;
    }
    command.acked = true;
    this.#tell("accepted", { key: command.key, ack });
    const ended = ack.status === "completed" || ack.status === "failed";
    const result = typeof ack.result === "object" ? ack.result : null;
    if (ended && (result !== null || ack.duplicate)) this.#settle(command, ack.status, result ?? {});
    else if (command.doubtful) {
      command.doubtful = false;
      this.#queue.unshift(command);
    }
  }

  #refused(command, error, now) {
    this.#inflight = null;
    if (command.settled) {
      this.#drop(command); // the event told already; the error is about a resend
      return;
    }
    const expired = error.code === "token_expired" && command.tries < MAX_TRIES;
    if (expired) this.#tell("refresh_token");
    const wait = expired ? FIRST_RETRY_MS << command.tries : retryWait(error, command.tries);
    if (wait === null) {
      this.#refuse(command, error);
      return;
    }
    command.tries += 1;
    this.#queue.unshift(command);
    this.#paused = true;
    this.#later(now + wait, () => (this.#paused = false));
    this.#tell("retry", { key: command.key, after_ms: wait, error });
  }

  /** Draw from an event what concerns commands and streams. */
  #fold(event) {
    if (event.type === "turn.completed" || event.type === "turn.failed") {
      const command = this.#commands.get(event.command_id);
      if (command && !command.settled) this.#settle(command, event.type.slice(5), event.data ?? {});
    } else if (event.type === "message.completed" || event.type === "message.retracted") {
      const id = event.data?.message_id;
      this.#streams.delete(id);
      this.#finished.add(id);
      bound(this.#finished, MAX_FINISHED);
    }
  }

  #settle(command, outcome, data) {
    command.settled = true;
    this.#tell("settle", { key: command.key, outcome, data, error: data.error ?? null });
    if (this.#inflight !== command) this.#drop(command); // else its ack is still to come, and the next waits for it
  }

  #refuse(command, error) {
    command.settled = true;
    this.#tell("settle", { key: command.key, outcome: "refused", data: {}, error });
    if (this.#inflight !== command) this.#drop(command);
  }

  #drop(command) {
    this.#commands.delete(command.key);
    this.#queue = this.#queue.filter((other) => other !== command);
  }

  /** Events were skipped: ask for the outcome of what was accepted, in order, before what is new. */
  #askAgain() {
    const open = [...this.#commands.values()].filter(
      (command) => command.acked && !command.settled && command !== this.#inflight && !this.#queue.includes(command),
    );
    this.#queue.unshift(...open);
  }

  // --- sending ----------------------------------------------------------------------------------

  #tell(what, more = {}) {
    this.#out.push({ do: what, ...more });
  }

  #transmit(body, onAck, onError) {
    const id = String(++this.#nextId);
    this.#answers.set(id, [onAck, onError]);
    this.#tell("send", { frame: { id, ...body } });
    return id;
  }

  #sendRequest(request) {
    request.sent = true;
    const finish = (result, error) => {
      if (this.#requests.get(request.name) === request) this.#requests.delete(request.name);
      this.#tell("answer", { name: request.name, result, error });
    };
    this.#transmit(
      request.body,
      (ack) => finish(ack.result, null),
      (error, now) => {
        const wait = retryWait(error, request.tries++);
        if (wait === null) finish(null, error);
        else this.#later(now + wait, () => (request.sent = false));
      },
    );
  }

  #complain(error) {
    this.#tell("complaint", { error });
  }

  #giveUp(reason) {
    if (this.#state === "closing") return;
    this.#state = "closing";
    this.#tell("close", { reason });
  }

  #later(due, action) {
    this.#timers.push({ due, action });
  }

  /** Let leave what may leave, and return what has gathered. */
  #finish() {
    if (this.online && this.#drainUntil === null) {
      for (const request of this.#requests.values()) if (!request.sent) this.#sendRequest(request);
      const open = this.#phase === "live" || this.#phase === "awaiting_snapshot";
      if (open && !this.#paused && this.#inflight === null && this.#queue.length > 0) this.#sendCommand();
    }
    const out = this.#out;
    this.#out = [];
    return out;
  }
}

/** How long to wait before trying again, in ms; null: the error is final. */
function retryWait(error, tries) {
  if (!error.temporary || tries >= MAX_TRIES) return null;
  const wait = error.retry_after_ms ?? Math.min(LAST_RETRY_MS, FIRST_RETRY_MS << tries);
  return wait > MAX_RETRY_MS ? null : Math.max(0, wait);
}

/** Forget the oldest of a map or set beyond `size`. */
function bound(collection, size) {
  if (collection.size > size) collection.delete(collection.keys().next().value);
}
