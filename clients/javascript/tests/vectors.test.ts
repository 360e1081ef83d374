/** The golden vectors of the protocol, run against this client's state machine. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CLOSE_TOKEN_EXPIRED, mayReconnect } from "../src/protocol.js";
import type { Raw } from "../src/records.js";
import { createSession, type Offline, type Output } from "../src/session.js";

const VECTORS = new URL("../../../protocol/vectors/", import.meta.url);
const CHAT = "c1";

const load = (name: string): Raw => JSON.parse(readFileSync(new URL(name, VECTORS), "utf8"));
const inRepository = existsSync(VECTORS);

/** Drives a session through a case, and says what it did in the vectors' words. */
class Client {
  now = 1_000_000;
  readonly session = createSession({
    now: () => this.now,
    tell: (...output) => this.#outputs.push(output),
  });
  dispatched: number[] = [];
  offline: Offline | null = null;
  actions: Raw[] = [];
  #sent = new Map<string, string>();
  #outputs: Output[] = [];

  /** Brings the session to the given state through its public surface alone. */
  constructor({ epoch, cursor, connected = true, accepted = [], in_flight = null, queued = [] }: Raw) {
    const resume = epoch === null ? null : { epoch, offset: cursor };
    this.perform(() => this.session.chat(CHAT).watch(resume));
    const waiting: string[] = [in_flight, ...queued].filter((key) => key !== null);
    if (connected || accepted.length || in_flight) {
      this.#connect();
      for (const key of accepted) {
        this.say(key);
        this.receive(ack(key));
      }
    }
    for (const key of waiting) {
      this.say(key);
    }
    if (!connected && (accepted.length || in_flight)) {
      this.perform(() => this.session.closed(1006, ""));
    }
    this.#forget();
  }

  step(step: Raw): void {
    this.#forget();
    const [input, ...others] = ["receive", "open", "close", "send", "silence_ms"].filter(
      (name) => name in step,
    );
    expect(others).toEqual([]);
    switch (input) {
      case "receive":
        return this.receive(step.receive);
      case "open":
        return this.perform(() => this.session.opened("token"));
      case "close":
        return this.perform(() => this.session.closed(step.close, ""));
      case "send":
        return this.say(step.send);
      case "silence_ms":
        this.now += step.silence_ms;
        return this.perform(() => this.session.tick());
      default:
        throw new Error(`unknown input in ${JSON.stringify(step)}`);
    }
  }

  say(key: string): void {
    const content = { type: "text", text: "hi" };
    const frame = { type: "process", conversation_id: CHAT, idempotency_key: key, content };
    this.perform(() => this.session.chat(CHAT).submit(frame));
  }

  receive(frame: Raw): void {
    let text = JSON.stringify(frame);
    for (const [name, id] of this.#sent) {
      text = text.replaceAll(JSON.stringify(name), JSON.stringify(id));
    }
    this.perform(() => this.session.receive(text));
  }

  perform(step: () => void): void {
    step();
    this.session.pump();
    for (const output of this.#outputs.splice(0)) {
      this.#note(output);
    }
  }

  #note(output: Output): void {
    switch (output[0]) {
      case "send":
        return this.#noteSent(JSON.parse(output[1]));
      case "dispatch":
        expect(output[1]).toBe(CHAT);
        this.dispatched.push(...output[4].map((event) => event.offset));
        return;
      case "settled": {
        const [, , key, completed, data] = output;
        const outcome = completed ? { outcome: "completed" } : { outcome: "failed", code: data.error.code };
        return this.#did("settle", { key, ...outcome });
      }
      case "refusal":
        return this.#did("settle", { key: output[2], outcome: "refused", code: output[3].code });
      case "retry":
        return this.#did("retry", { key: output[2], after_ms: output[3] });
      case "replace":
        return this.#did("snapshot");
      case "delta":
        return this.#did("delta", { message_id: output[2].message_id, text: output[2].delta });
      case "detached":
        return this.#did(output[3] ? "forget" : "detach");
      case "needToken":
        return this.#did("refresh_token");
      case "close":
        this.#did("close");
        return this.perform(() => this.session.closed(output[1], output[2]));
      case "offline":
        this.offline = output[1];
        if (this.offline.code === CLOSE_TOKEN_EXPIRED) {
          this.#did("refresh_token"); // the connection asks for one each time; client.test.ts shows it
        }
        return this.#did(this.offline.reconnect ? "reconnect" : "stop");
    }
  }

  #noteSent(frame: Raw): void {
    const resume = frame.resume ? [frame.resume.epoch, frame.resume.offset] : null;
    switch (frame.type) {
      case "hello":
        expect(frame.conversation_id).toBe(CHAT);
        this.#sent.set("$hello", frame.id);
        return this.#did("hello", { resume });
      case "subscribe":
        this.#sent.set("$resume", frame.id);
        return this.#did("resume", { resume });
      case "process":
        this.#sent.set(`$command:${frame.idempotency_key}`, frame.id);
        return this.#did("command", { key: frame.idempotency_key });
      default:
        return this.#did(frame.type);
    }
  }

  #connect(): void {
    this.perform(() => this.session.opened("token"));
    const limits = { max_frame_bytes: 65536, frames_per_second: 20 };
    const place = { conversation_id: CHAT, ...this.session.chat(CHAT).cursor(), recovered: true };
    this.receive({ type: "welcome", id: "$hello", ping_interval: 25, limits, ...place });
  }

  #forget(): void {
    this.dispatched = [];
    this.actions = [];
  }

  #did(what: string, more: Raw = {}): void {
    this.actions.push({ do: what, ...more });
  }
}

const ack = (key: string): Raw => ({
  type: "ack",
  id: `$command:${key}`,
  duplicate: false,
  command_id: key,
  status: "running",
  execution_id: "x1",
  epoch: "e1",
  offset: 1,
  result: null,
});

/** Actions of one name keep their order; those of different names have none. */
const byName = (actions: Raw[]) => actions.toSorted((a, b) => (a.do < b.do ? -1 : a.do > b.do ? 1 : 0));

describe.skipIf(!inRepository)("the golden vectors", () => {
  const cursors = inRepository ? load("client_cursor.json").cases : [];
  it.each<Raw>(cursors)("$name: the client does what the vector says", ({ given, steps, why }) => {
    const client = new Client(given);
    for (const [number, step] of steps.entries()) {
      client.step(step);
      const where = `step ${number}: ${why}`;
      expect(client.dispatched, where).toEqual(step.expect.dispatched ?? []);
      expect(byName(client.actions), where).toEqual(byName(step.expect.actions ?? []));
      const { epoch, offset } = client.session.chat(CHAT).cursor();
      expect([epoch, offset], where).toEqual(step.expect.cursor);
    }
  });

  const closes = inRepository ? load("close_codes.json").cases : [];
  it.each<Raw>(closes)("$name: a close code is followed as its range says", ({ code, reconnect, then }) => {
    const client = new Client({ epoch: "e1", cursor: 5 });
    client.perform(() => client.session.closed(code, ""));
    expect(client.offline).toMatchObject({ reconnect });
    expect(client.actions.some((action) => action.do === "refresh_token")).toBe(then === "refresh_token");
    expect(mayReconnect(code)).toBe(reconnect);
    expect(client.session.chat(CHAT).cursor().epoch === null).toBe(then === "drop_cursor");
  });

  const frames = inRepository ? load("decoding.json").server_frames : [];
  it.each<Raw>(frames)("$name: a server frame is accepted or ignored", ({ text, json }) => {
    const client = new Client({ epoch: "e1", cursor: 5 });
    client.perform(() => client.session.receive(text ?? JSON.stringify(json)));
    expect(client.session.isOnline()).toBe(true);
  });
});
