/**
 * One person with this client, who says some words and writes down all that the client does and tells.
 *
 * The harness (`tests/faults/test_javascript.py`) runs it in Node and in Chromium, behind its fault proxy, and
 * holds what it wrote against the log in the store.
 */
import { type AnyEvent, Parley, type TurnStream } from "parley-client";

/** How much faster this client's time runs: it need not wait long to give a silent connection up. */
const PACE = 10;

const fastClock = {
  now: () => performance.now() * PACE,
  callLater(delayMs: number, callback: () => void) {
    const timer = setTimeout(callback, delayMs / PACE);
    return () => clearTimeout(timer);
  },
};

interface Task {
  url: string;
  token: string;
  /** Names the conversation, and the keys. */
  name: string;
  words: string[];
}

type Entry = [kind: string, conversationId: string | null, key: string | null, body: unknown];

function check(holds: boolean, what: string): asserts holds {
  if (!holds) {
    throw new Error(what);
  }
}

/** Reads all events of a conversation and holds them to the promise. */
class Witness {
  last = 0;
  heard: (string | null)[] = [];
  #note: (...entry: Entry) => void;

  constructor(note: (...entry: Entry) => void) {
    this.#note = note;
  }

  see(event: AnyEvent): void {
    if (event.type === "snapshot") {
      check(event.snapshot.offset >= this.last, `a snapshot of ${event.snapshot.offset} after ${this.last}`);
      this.last = event.snapshot.offset;
      this.heard = event.snapshot.messages.filter(({ role }) => role === "user").map(({ text }) => text);
      this.#note("skipped", event.conversation_id, null, { offset: this.last });
    } else if ("offset" in event && event.offset !== null) {
      check(event.offset === this.last + 1, `the event ${event.offset} after ${this.last}`);
      this.last = event.offset;
      this.#note("shown", event.conversation_id, null, { offset: this.last });
      if (event.type === "message.received") {
        this.heard.push(event.message.text);
      }
    }
  }
}

async function listen(stream: TurnStream): Promise<void> {
  const found: AnyEvent[] = [];
  for await (const event of stream) {
    found.push(event);
  }
  const ends = found.filter((event) => event.type === "turn.completed");
  check(ends.length === 1 && found.at(-1) === ends[0], `a turn ended as ${found.map(({ type }) => type)}`);
  const offsets = found.flatMap((event) => ("offset" in event && event.offset !== null ? event.offset : []));
  check(
    offsets.every((offset, n) => n === 0 || offset > (offsets[n - 1] as number)),
    `a turn's events came as ${offsets}`,
  );
}

/** Say all words; return what was done and told, in order. Throws where a promise is broken. */
export async function talk({ url, token, name, words }: Task): Promise<Entry[]> {
  const entries: Entry[] = [];
  const note = (...entry: Entry) => entries.push(entry);
  const parley = new Parley(url, {
    token,
    clock: fastClock,
    onFrame: (direction, text) => {
      const frame = JSON.parse(text);
      const key = frame[direction === "out" ? "idempotency_key" : "command_id"] ?? null;
      note(direction === "out" ? "sent" : "received", frame.conversation_id ?? null, key, frame);
    },
  });
  parley.on("connection", ({ state, code }) => {
    if (state === "connecting") {
      note("opened", null, null, null);
    } else if (state === "disconnected" || state === "closed") {
      note("closed", null, null, code);
    }
  });
  const chat = parley.conversation(name);
  const witness = new Witness(note);
  let wrong: unknown = null;
  chat.on("event", (event) => {
    try {
      witness.see(event);
    } catch (error) {
      wrong ??= error;
    }
  });
  for (let first = 0; first < words.length; first += 3) {
    // three at once, and then their ends
    const streams = words.slice(first, first + 3).map((text, place) => {
      const key = `${name}-${String(first + place).padStart(8, "0")}`;
      const content = { type: "text", text };
      note("invoke", name, key, { type: "process", content });
      return chat.send(text, { idempotencyKey: key });
    });
    for (const stream of streams) {
      await listen(stream);
      const data = stream.turn?.raw;
      note("settled", name, stream.commandId, { completed: stream.turn?.success, data });
    }
  }
  const state = await chat.state({ timeoutMs: null });
  if (wrong) {
    throw wrong;
  }
  check(witness.last === state.offset, `saw ${witness.last} of ${state.offset}`);
  check(JSON.stringify(witness.heard) === JSON.stringify(words), `heard ${witness.heard}`);
  const said = chat.messages.filter(({ role }) => role === "user").map(({ text }) => text);
  check(JSON.stringify(said) === JSON.stringify(words), `holds ${said}`);
  await parley.close();
  return entries;
}

/** Do all tasks at once; return each one's entries, or what went wrong. */
export const talkAll = (tasks: Task[]): Promise<({ entries: Entry[] } | { failed: string })[]> =>
  Promise.all(
    tasks.map((task) =>
      talk(task).then(
        (entries) => ({ entries }),
        (error) => ({ failed: String(error?.stack ?? error) }),
      ),
    ),
  );
