/** The client through its public surface, with a server that the test plays and a clock that it moves. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  BadRequest,
  ConnectionClosed,
  ConnectionLost,
  ConversationNotFound,
  EventsOverflow,
  type events,
  InvalidFrame,
  MissingAnswers,
  OutboxFull,
  Parley,
  type ParleyOptions,
  RateLimited,
  Refused,
  Timeout,
  TokenExpired,
  TurnFailed,
} from "../src/index.js";
import type { Raw } from "../src/records.js";
import { FakeServer, LongSignal, message, settled, VirtualClock } from "./fakes.js";

let server: FakeServer;
let clock: VirtualClock;
let parley: Parley;

const connect = (options: ParleyOptions = {}) =>
  new Parley("http://example.test", {
    token: "secret",
    WebSocket: server.Socket,
    clock,
    random: () => 0.5,
    ...options,
  });
const turn = (text: string) => ({
  current_state: "ask",
  response: { messages: [message("m1", text)] },
  success: true,
});

beforeEach(() => {
  server = new FakeServer();
  clock = new VirtualClock();
  parley = connect();
});
afterEach(() => parley.close());

describe("the address", () => {
  it.each([
    ["http://h:1", "ws://h:1/v1/ws", "http://h:1/v1"],
    ["https://h/base/", "wss://h/base/v1/ws", "https://h/base/v1"],
    ["wss://h/v1/ws", "wss://h/v1/ws", "https://h/v1"],
  ])("%s is both", (given, socket, rest) => {
    const { url, restUrl } = new Parley(given);
    expect([url, restUrl]).toEqual([socket, rest]);
  });

  it.each(["ftp://h", "h:1", "http://u:p@h", "http://h?token=x", "http://h#x"])("%s is refused", (given) => {
    expect(() => new Parley(given)).toThrow(TypeError);
  });
});

describe("a turn", () => {
  it("yields its events and ends with its end", async () => {
    const stream = parley.conversation("c1").send("hi", { idempotencyKey: "key-0001" });
    await settled();
    expect(server.last("hello")).toMatchObject({ token: "secret", conversation_id: "c1" });
    expect(server.last("process")).toMatchObject({
      content: { type: "text", text: "hi" },
      idempotency_key: "key-0001",
    });
    server.ack(server.last("process"));
    server.send({
      type: "message.delta",
      conversation_id: "c1",
      execution_id: "x1",
      message_id: "m1",
      index: 0,
      delta: "He",
    });
    server.events(
      "c1",
      "key-0001",
      ["message.completed", message("m1", "Hello")],
      ["turn.completed", turn("Hello")],
    );
    const found = [];
    for await (const event of stream) {
      found.push(event.type);
    }
    expect(found).toEqual(["message.delta", "message.completed", "turn.completed"]);
    expect(stream).toMatchObject({ accepted: true, duplicate: false, turn: { text: "Hello", state: "ask" } });
  });

  it("is of the conversation whose id is what blanks leave of it", async () => {
    const chat = parley.conversation(" c1\n");
    expect(chat).toBe(parley.conversation("c1"));
    chat.send("hi");
    await settled();
    expect(server.last("process")).toMatchObject({ conversation_id: "c1" });
  });

  it("serves each of those who wait for its next event", async () => {
    const reader = parley.conversation("c1").events();
    const waiting = [reader.next(), reader.next(), reader.next()];
    await settled();
    server.events(
      "c1",
      null,
      ["message.completed", message("m1", "1")],
      ["message.completed", message("m2", "2")],
    );
    const found = await Promise.all(waiting.slice(0, 2));
    expect(found.map(({ value }) => value.message_id ?? value.message.message_id)).toEqual(["m1", "m2"]);
    reader.close();
    expect((await Promise.race([waiting[2], settled()]))?.done).toBe(true);
  });

  it("goes on where the server does not take the id of another one", async () => {
    server.greets = false;
    const strange = parley.conversation("no id!").ask("hi");
    const refused = expect(strange).rejects.toBeInstanceOf(BadRequest);
    await settled();
    const error = { code: "bad_request", message: "no", field: "conversation_id" };
    server.send({ type: "error", id: server.last("hello").id, error });
    server.greets = true;
    server.socket.end(4501);
    await refused;
    const mine = parley.conversation("c1").ask("ho");
    await clock.advance(1_000);
    expect(server.last("hello").conversation_id).toBe("c1");
    const said = server.frames.filter(({ type }) => type === "process");
    expect(said.map(({ content }) => content.text)).toContain("ho");
    const done = { status: "completed", result: turn("Hello"), offset: 0 };
    server.ack(said.find(({ content }) => content.text === "ho") as Raw, done);
    await clock.advance(1_000);
    expect((await mine).text).toBe("Hello");
  });

  it("leaves nothing at a signal that lives on", async () => {
    const signal = new LongSignal();
    const chat = parley.conversation("c1");
    const [stream, asked] = [
      chat.send("hi", { signal, idempotencyKey: "key-0001" }),
      chat.ask("ho", { signal }),
    ];
    const reader = chat.events({ signal });
    await settled();
    expect(signal.listeners).toBe(3);
    const ended = { status: "completed", result: turn("Hello"), offset: 0 };
    server.ack(server.last("process"), ended);
    server.ack(server.last("process"), ended);
    await clock.advance(1_000);
    reader.close();
    expect([stream.ended, (await asked).text]).toEqual([true, "Hello"]);
    expect(signal.listeners).toBe(0);
  });

  it("of an ack's result ends without its events, too", async () => {
    const asked = parley.conversation("c1").ask("hi");
    await settled();
    server.ack(server.last("process"), {
      duplicate: true,
      status: "completed",
      result: turn("Hello"),
      offset: 0,
    });
    await clock.advance(1_000); // they might have come with it
    expect(await asked).toMatchObject({ text: "Hello", duplicate: true });
  });

  it("that fails is thrown, with what it said", async () => {
    const asked = parley.conversation("c1").ask("hi", { idempotencyKey: "key-0001" });
    await settled();
    server.ack(server.last("process"));
    const error = { code: "step_failed", message: "No.", temporary: false };
    server.events("c1", "key-0001", ["turn.failed", { ...turn("Sorry"), error }]);
    const failed = await asked.catch((thrown) => thrown);
    expect(failed).toBeInstanceOf(TurnFailed);
    expect(failed).toMatchObject({
      name: "TurnFailed",
      code: "step_failed",
      turn: { text: "Sorry", success: false },
    });
    expect(failed.error).toMatchObject({ name: "StepFailed", message: "No." });
  });

  it("is refused by typed errors, known and unknown", async () => {
    const chat = parley.conversation("c1");
    const errors = [];
    for (const code of ["missing_answers", "new_code"]) {
      const asked = chat.answer("p1", { part: "noon" }).catch((error) => error);
      await settled();
      const { id } = server.last("clarification");
      server.send({
        type: "error",
        id,
        error: { code, message: "No.", temporary: false, details: { missing: ["day"] } },
      });
      errors.push(await asked);
    }
    expect(errors[0]).toBeInstanceOf(MissingAnswers);
    expect(errors[0].missing).toEqual(["day"]);
    expect(errors[1]).toBeInstanceOf(Refused);
    expect(errors[1]).toMatchObject({ name: "NewCode", code: "new_code" });
  });

  it("is tried again after a temporary error, with its key", async () => {
    const asked = parley.conversation("c1").ask("hi");
    await settled();
    const first = server.last("process");
    const error = { code: "rate_limited", message: "Slow.", temporary: true, retry_after_ms: 700 };
    server.send({ type: "error", id: first.id, error });
    await clock.advance(699);
    expect(server.count("process")).toBe(1);
    await clock.advance(1);
    expect(server.last("process").idempotency_key).toBe(first.idempotency_key);
    server.send({
      type: "error",
      id: server.last("process").id,
      error: { ...error, retry_after_ms: 60_000 },
    });
    await expect(asked).rejects.toBeInstanceOf(RateLimited);
  });
});

describe("waiting", () => {
  it("ends by a signal, and the command stands", async () => {
    const stop = new AbortController();
    const chat = parley.conversation("c1");
    const stream = chat.send("hi", { signal: stop.signal });
    const asked = chat.ask("there", { signal: stop.signal });
    await settled();
    stop.abort(new Error("enough"));
    await expect(stream.next()).rejects.toThrow("enough");
    await expect(asked).rejects.toThrow("enough");
    server.ack(server.last("process"), { status: "completed", result: turn("") });
    await settled();
    expect(server.last("process").content.text).toBe("there");
    await expect(chat.ask("no", { signal: AbortSignal.abort(new Error("before")) })).rejects.toThrow(
      "before",
    );
    expect(server.count("process")).toBe(2);
  });

  it("ends by its time", async () => {
    const chat = parley.conversation("c1");
    const asked = chat.ask("hi", { timeoutMs: 500 }).catch((error) => error);
    const stream = chat.send("hi", { timeoutMs: 500 });
    const ready = parley
      .conversation("c2")
      .state({ timeoutMs: 500 })
      .catch((error) => error);
    await clock.advance(500);
    expect(await asked).toBeInstanceOf(Timeout);
    expect(await ready).toBeInstanceOf(Timeout);
    await expect(stream.next()).rejects.toBeInstanceOf(Timeout);
  });

  it("for too many events is cut off, behind those that fit", async () => {
    parley = connect({ eventBuffer: 2 });
    const chat = parley.conversation("c1");
    const reader = chat.events();
    await settled();
    for (const id of ["m1", "m2", "m3"]) {
      server.events("c1", null, ["message.completed", message(id, id)]);
    }
    expect([(await reader.next()).value.type, (await reader.next()).value.type]).toEqual(
      Array(2).fill("message.completed"),
    );
    await expect(reader.next()).rejects.toBeInstanceOf(EventsOverflow);
    expect(chat.messages.map(({ text }) => text)).toEqual(["m1", "m2", "m3"]);
  });
});

describe("what cannot be sent", () => {
  it.each([
    [
      "a number that not every reader keeps",
      { metadata: { n: 2 ** 60 } },
      InvalidFrame,
      "content.metadata.n",
    ],
    ["a lone surrogate", { text: "\ud800" }, InvalidFrame, "content.text"],
    ["nothing", {}, BadRequest, "content.text"],
  ])("%s is refused here", (_, options, kind, field) => {
    const chat = parley.conversation("c1");
    expect(() =>
      chat.send({ text: "text" in options || !("metadata" in options) ? undefined : "x", ...options }),
    ).toThrow(kind);
    expect(() => chat.send({ ...("metadata" in options ? { text: "x" } : {}), ...options })).toThrow(
      expect.objectContaining({ field }),
    );
  });

  it("is what is too much", () => {
    parley = connect({ outboxLimit: 1 });
    const chat = parley.conversation("c1");
    chat.send("one");
    expect(() => chat.send("two")).toThrow(OutboxFull);
    expect(parley.unacknowledged).toBe(1);
  });
});

describe("the connection", () => {
  it("comes back, resumes, and sends the unacknowledged command again before the next", async () => {
    const chat = parley.conversation("c1");
    const seen: string[] = [];
    parley.on("connection", ({ state }) => seen.push(state));
    chat.send("one", { idempotencyKey: "key-0001" });
    chat.send("two", { idempotencyKey: "key-0002" });
    await settled();
    server.events("c1", null, ["message.completed", message("m1", "Hi")]);
    server.socket.end(1006);
    await clock.advance(250); // half of 500 ms: the jitter is 0.5
    expect(server.sockets.length).toBe(2);
    expect(server.last("hello").resume).toEqual({ epoch: "e1", offset: 1 });
    const sent = server.frames.filter(({ type }) => type === "process").map((frame) => frame.idempotency_key);
    expect(sent).toEqual(["key-0001", "key-0001"]);
    server.ack(server.last("process"));
    expect(server.last("process").idempotency_key).toBe("key-0002");
    expect(seen).toEqual(["connecting", "connected", "disconnected", "connecting", "connected"]);
  });

  it("is given up when it is silent, and a ping is answered", async () => {
    await Promise.all([parley.connect(), settled()]);
    await clock.advance(30_000);
    server.send({ type: "ping", offsets: {} });
    expect(server.last("pong")).toEqual({ type: "pong" });
    await clock.advance(34_999);
    expect(server.sockets.length).toBe(1);
    await clock.advance(1_000);
    expect(server.sockets.length).toBe(2);
  });

  it("ends where the server says that one does not return", async () => {
    const chat = parley.conversation("c1");
    const asked = chat.ask("hi").catch((error) => error);
    await settled();
    server.socket.end(4503);
    expect(await asked).toMatchObject({ name: "ConnectionClosed", closeCode: 4503 });
    expect(() => chat.send("more")).toThrow(ConnectionClosed);
    await clock.advance(60_000);
    expect(server.sockets.length).toBe(1);
  });

  it("tells nobody any more once it is closed", async () => {
    const events = parley.connectionEvents();
    await parley.close();
    const told = [];
    for (const stream of [events, parley.connectionEvents()]) {
      for await (const { state } of stream) {
        told.push(state);
      }
    }
    expect(told).toEqual(["closed"]);
  });

  it("holds the process no longer when it is closed in the middle of opening", async () => {
    const opened = parley.connect().catch((error) => error);
    await Promise.resolve();
    server.greets = false;
    while (!server.sockets.length) {
      await Promise.resolve();
    }
    const closed = parley.close();
    expect(await opened).toBeInstanceOf(ConnectionClosed);
    await closed;
    await settled();
    expect(clock.waiting).toBe(0);
  });

  it("asks for fresh tokens, and ends with a plain one that has expired", async () => {
    let count = 0;
    parley = connect({ token: async () => `token-${(count += 1)}` });
    await Promise.all([parley.connect(), settled()]);
    server.send({ type: "auth.required", expires_in: 25 });
    await settled();
    expect(server.last("auth").token).toBe("token-2");
    await parley.close();

    server.greets = false;
    parley = connect();
    const opened = parley.connect().catch((error) => error);
    await settled();
    const error = { code: "token_expired", message: "Expired.", temporary: false };
    server.send({ type: "error", id: server.last("hello").id, error });
    server.socket.end(4002);
    expect(await opened).toBeInstanceOf(TokenExpired);
  });

  it("that is not made in time is lost", async () => {
    server.greets = false;
    const opened = parley.connect({ timeoutMs: 5_000 }).catch((error) => error);
    await clock.advance(5_000);
    expect(await opened).toBeInstanceOf(ConnectionLost);
  });

  it("writes no token where frames are recorded", async () => {
    const seen: string[] = [];
    parley = connect({ onFrame: (_, text) => seen.push(text) });
    await Promise.all([parley.connect(), settled()]);
    expect(seen[0]).toContain('"token":"***"');
    expect(seen.join()).not.toContain("secret");
  });
});

describe("a conversation", () => {
  it("tells listeners by type, and unknown events apart", async () => {
    const chat = parley.conversation("c1");
    const texts: (string | null)[] = [];
    const unknown: events.UnknownEvent[] = [];
    const stop = chat.on("message.completed", ({ message: { text } }) => texts.push(text));
    chat.on("unknown", (event) => unknown.push(event));
    chat.on("event", () => {
      throw new Error("a listener of the application");
    });
    await settled();
    const { error } = console;
    const complaints: unknown[] = [];
    console.error = (...said) => complaints.push(said);
    server.events("c1", null, ["message.completed", message("m1", "Hi")], ["planet.landed", { on: "Mars" }]);
    stop();
    server.events("c1", null, ["message.completed", message("m2", "There")]);
    console.error = error;
    expect(texts).toEqual(["Hi"]);
    expect(unknown).toMatchObject([
      { type: "unknown", event_type: "planet.landed", data: { on: "Mars" }, offset: 2 },
    ]);
    expect(complaints.length).toBe(3);
  });

  it("folds events and snapshots into what it knows", async () => {
    const chat = parley.conversation("c1");
    await Promise.all([chat.ready(), settled()]);
    const pending = { pending_id: "p1", kind: "acceptance", digest: "d1" };
    server.events(
      "c1",
      null,
      ["conversation.created", { user_id: "ann", channel: "web" }],
      ["slots.updated", { slots: { part: "noon", day: null } }],
      ["acceptance.requested", pending],
      ["execution.waiting", { status: "waiting_acceptance", flow_id: "f", flow_version: 1 }],
    );
    expect(chat.snapshot.state).toMatchObject({
      user_id: "ann",
      slots: { part: "noon" },
      status: "waiting_acceptance",
    });
    const [asked] = chat.pending();
    expect(asked).toMatchObject({ pending_id: "p1", questions: [], by: null });
    chat.accept(asked ?? "", { edits: { part: "two" } }).catch(() => {});
    expect(server.last("acceptance")).toMatchObject({
      pending_id: "p1",
      digest: "d1",
      accepted: true,
      edits: { part: "two" },
    });
    server.send({
      type: "snapshot",
      conversation_id: "c1",
      epoch: "e2",
      offset: 9,
      state: null,
      messages: [message("m9", "New")],
      before: 8,
      pending: [],
      partials: [{ message_id: "m10", text: "Wr", next_index: 3 }],
    });
    expect(chat.snapshot).toMatchObject({
      epoch: "e2",
      offset: 9,
      before: 8,
      pending: [],
      partials: { m10: "Wr" },
    });
    expect(chat.messages.map(({ text }) => text)).toEqual(["New"]);
    expect(chat.cursor).toEqual({ epoch: "e2", offset: 9 });
  });

  it("is resumed beside others, each from where it stands", async () => {
    const [first, second] = [parley.conversation("c1"), parley.conversation("c2")];
    const seen: string[] = [];
    const ready = first.ready();
    second.on("message.completed", ({ message }) => seen.push(message.text ?? ""));
    await Promise.all([ready, settled()]);
    const { id } = server.last("subscribe");
    expect(server.last("subscribe")).toMatchObject({ conversation_id: "c2" });
    expect(server.last("hello")).toMatchObject({ conversation_id: "c1" });
    const result = { conversation_id: "c2", epoch: null, offset: 0, recovered: true };
    server.send({ type: "ack", id, status: "completed", duplicate: false, command_id: null, result });
    server.events("c2", null, ["message.completed", message("m1", "Hi")]);
    expect(seen).toEqual(["Hi"]);
    server.socket.end(1006);
    await clock.advance(500);
    expect(server.last("hello").resume).toBeUndefined();
    expect(server.last("subscribe")).toMatchObject({
      conversation_id: "c2",
      resume: { epoch: "e1", offset: 1 },
    });
  });

  it("is watched in the end, however long the store is away", async () => {
    const seen: string[] = [];
    parley.conversation("c1").on("event", () => {});
    parley.conversation("c2").on("message.completed", ({ message }) => seen.push(message.text ?? ""));
    await settled();
    const asked = () => server.frames.filter(({ type }) => type === "subscribe").length;
    const error = { code: "store_unavailable", message: "away", temporary: true, retry_after_ms: 1000 };
    for (let time = 1; time <= 30; time += 1) {
      expect(asked()).toBe(time);
      server.send({ type: "error", id: server.last("subscribe").id, error });
      await clock.advance(1000);
    }
    const { id } = server.last("subscribe");
    const result = { conversation_id: "c2", epoch: null, offset: 0, recovered: true };
    server.send({ type: "ack", id, status: "completed", duplicate: false, command_id: null, result });
    server.events("c2", null, ["message.completed", message("m1", "Hi")]);
    expect(seen).toEqual(["Hi"]);
  });

  it("that is deleted is told, and nothing is asked for again", async () => {
    const chat = parley.conversation("c1");
    const reader = chat.events();
    const asked = chat.ask("hi").catch((error) => error);
    await settled();
    server.send({ type: "unsubscribed", conversation_id: "c1", code: "conversation_not_found" });
    expect(await asked).toBeInstanceOf(ConversationNotFound);
    expect((await reader.next()).value.type).toBe("unsubscribed");
    expect((await reader.next()).done).toBe(true);
  });

  it("is not read at all where its signal is aborted before", async () => {
    const signal = AbortSignal.abort(new Error("before"));
    await expect(parley.conversation("c1").events({ signal }).next()).rejects.toThrow("before");
    await expect(parley.connectionEvents({ signal }).next()).rejects.toThrow("before");
  });

  it("is left by break, and by close", async () => {
    const chat = parley.conversation("c1");
    const reader = chat.events();
    await settled();
    server.events("c1", null, ["message.completed", message("m1", "Hi")]);
    for await (const _ of reader) {
      break;
    }
    expect(reader.ended).toBe(true);
    chat.close();
    expect(server.last("unsubscribe").conversation_id).toBe("c1");
    expect(() => chat.send("more")).toThrow(ConnectionClosed);
    expect(parley.conversation("c1")).not.toBe(chat);
  });
});
