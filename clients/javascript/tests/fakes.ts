/** A clock that the test moves, a socket that the test plays the server behind, and a storage in memory. */
import type { Clock } from "../src/clock.js";
import type { Raw } from "../src/records.js";
import type { SocketLike } from "../src/sockets.js";

export class VirtualClock implements Clock {
  #now = 1_000_000;
  #due: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  /** How many calls are due some time. */
  get waiting(): number {
    return this.#due.length;
  }

  callLater(delayMs: number, callback: () => void): () => void {
    const call = { at: this.#now + delayMs, callback };
    this.#due.push(call);
    return () => {
      this.#due = this.#due.filter((each) => each !== call);
    };
  }

  /** Move on, calling what falls due on the way, each at its time; promises are settled in between. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    for (;;) {
      await settled();
      const [next] = this.#due.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
      if (!next) {
        break;
      }
      this.#due = this.#due.filter((each) => each !== next);
      this.#now = Math.max(this.#now, next.at);
      next.callback();
    }
    this.#now = until;
    await settled();
  }
}

/** Let everything happen that waits for nothing but its turn: a token, an outbox, the opening of a socket. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The server's side of a client's sockets: `hello` is welcomed, the rest is written down. */
export class FakeServer {
  sockets: FakeSocket[] = [];
  frames: Raw[] = [];
  offset = 0;
  epoch: string | null = null;
  greets = true;
  principal: Raw = { tenant_id: "t1", user_id: "ann" };

  get Socket() {
    const server = this;
    return class extends FakeSocket {
      constructor(_url: string, _protocols: string) {
        super(server);
      }
    };
  }

  get socket(): FakeSocket {
    return this.sockets.at(-1) as FakeSocket;
  }

  send(frame: Raw): void {
    this.socket.onmessage?.({ data: JSON.stringify(frame) } as never);
  }

  hears(frame: Raw): void {
    this.frames.push(frame);
    if (frame.type === "hello" && this.greets) {
      const place = {
        conversation_id: frame.conversation_id ?? null,
        epoch: this.epoch,
        offset: this.offset,
      };
      const { principal } = this;
      this.send({
        type: "welcome",
        id: frame.id,
        recovered: true,
        ping_interval: 25,
        limits: {},
        principal,
        ...place,
      });
    }
  }

  /** The newest frame of this type. */
  last(type: string): Raw {
    return this.frames.findLast((frame) => frame.type === type) as Raw;
  }

  count(type: string): number {
    return this.frames.filter((frame) => frame.type === type).length;
  }

  ack({ id, idempotency_key }: Raw, fields: Raw = {}): void {
    const place = { epoch: "e1", offset: this.offset, execution_id: "x1" };
    const told = { duplicate: false, status: "running", result: null, command_id: idempotency_key };
    this.send({ type: "ack", id, ...told, ...place, ...fields });
  }

  /** Send a commit of these events, which are next. */
  events(conversationId: string, commandId: string | null, ...events: [string, Raw][]): void {
    const from = this.offset + 1;
    const common = { time: "2026-01-01T00:00:00.000Z", execution_id: "x1", step_id: null, cause: null };
    const told = events.map(([type, data], n) => ({
      type,
      data,
      offset: from + n,
      command_id: commandId,
      ...common,
    }));
    this.offset += events.length;
    this.epoch = "e1";
    this.send({
      type: "events",
      conversation_id: conversationId,
      epoch: "e1",
      from,
      to: this.offset,
      events: told,
    });
  }
}

export class FakeSocket implements SocketLike {
  onopen: SocketLike["onopen"] = null;
  onmessage: SocketLike["onmessage"] = null;
  onclose: SocketLike["onclose"] = null;
  onerror: SocketLike["onerror"] = null;
  closedWith: number | null = null;
  #server: FakeServer;

  constructor(server: FakeServer) {
    this.#server = server;
    server.sockets.push(this);
    setImmediate(() => this.onopen?.({} as never));
  }

  send(text: string): void {
    this.#server.hears(JSON.parse(text));
  }

  close(code = 1005): void {
    this.closedWith = code;
    setImmediate(() => this.onclose?.({ code, reason: "" } as never));
  }

  /** The server, or the network, ends it. */
  end(code: number): void {
    this.onclose?.({ code, reason: "" } as never);
  }
}

/** A signal that is never aborted, and knows who listens. */
export class LongSignal extends EventTarget implements AbortSignal {
  readonly aborted = false;
  readonly reason = undefined;
  onabort = null;
  listeners = 0;

  override addEventListener(): void {
    this.listeners += 1;
  }
  override removeEventListener(): void {
    this.listeners -= 1;
  }
  throwIfAborted(): void {}
}

export class MemoryStorage implements Storage {
  [name: string]: unknown;

  get length(): number {
    return Object.keys(this).length;
  }
  clear(): void {
    for (const name of Object.keys(this)) {
      delete this[name];
    }
  }
  getItem(name: string): string | null {
    return Object.hasOwn(this, name) ? String(this[name]) : null;
  }
  key(index: number): string | null {
    return Object.keys(this)[index] ?? null;
  }
  removeItem(name: string): void {
    delete this[name];
  }
  setItem(name: string, value: string): void {
    this[name] = value;
  }
}

export const message = (id: string, text: string, role = "assistant"): Raw => ({
  message_id: id,
  role,
  type: "text",
  text,
  payload: null,
  buttons: [],
  metadata: {},
  user_id: null,
  time: "2026-01-01T00:00:00.000Z",
  offset: 1,
});
