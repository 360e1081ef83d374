/**
 * An outbox that survives the page or process: commands that were taken and not yet acknowledged.
 *
 * A command is in the store before it is sent, and leaves it when it is acknowledged or has ended. What an
 * earlier page left is sent first, in order, under its old keys, so it takes effect once however often it is
 * sent. There is no token in the store, but there is what people said.
 *
 * @module
 */
import { OutboxFull, OutboxUnusable } from "./errors.js";
import type { Raw } from "./records.js";
import type { Journal } from "./session.js";

export const OUTBOX_BYTES = 4 * 1024 * 1024;
/** What waited for longer is dropped: nobody expects to have said it any more. */
const MAX_AGE_MS = 7 * 24 * 3600 * 1000;

/** A command in an outbox, and as whom it is sent: null where the server had not told yet. */
export interface KeptCommand {
  readonly frame: Readonly<Record<string, unknown>>;
  readonly owner: string | null;
}

/** Where an outbox is kept. `browserOutbox` is one, `fileOutbox` of `parley-client/node` another. */
export interface OutboxStore {
  /**
   * Take it for this client; called once, before the first connection.
   *
   * @param url the server's; commands for another one are left alone.
   * @returns what earlier clients left and nobody has now, oldest first.
   * @throws OutboxUnusable somebody else uses it, or it cannot be read.
   */
  open(url: string): Promise<readonly KeptCommand[]>;
  /** Make a command durable before this returns; throws where that is not possible, nothing being kept. */
  keep(command: KeptCommand): void;
  /** Drop a command, if it is there. */
  release(conversationId: string, key: string): void;
  /** Let others use it. */
  close(): void;
}

const keyOf = (conversationId: unknown, key: unknown) => `${conversationId}\n${key}`;
const placeOf = ({ frame }: KeptCommand) => keyOf(frame.conversation_id, frame.idempotency_key);

export type Outbox = ReturnType<typeof createOutbox>;

/** Return the session's journal over a store: bounds, and whose commands these are. */
export function createOutbox(store: OutboxStore, maxBytes: number) {
  const kept = new Map<string, KeptCommand & { size: number }>();
  let bytes = 0;
  let owner: string | null = null;

  function add(command: KeptCommand, size: number): void {
    kept.set(placeOf(command), { ...command, size });
    bytes += size;
  }

  function forget(place: string): boolean {
    bytes -= kept.get(place)?.size ?? 0;
    return kept.delete(place);
  }

  return {
    close: () => store.close(),

    /** Return the frames that earlier clients left. */
    async open(url: string): Promise<Raw[]> {
      const left = await store.open(url);
      for (const command of left) {
        add(command, JSON.stringify(command.frame).length);
      }
      return left.map(({ frame }) => frame);
    },

    /** Say as whom its commands are sent; returns those that are somebody else's. They stay where they are. */
    own(name: string): Raw[] {
      owner = name;
      const others = [...kept.values()].filter((each) => each.owner && each.owner !== owner);
      for (const command of others) {
        forget(placeOf(command));
      }
      return others.map(({ frame }) => frame);
    },

    keep(frame: Raw, size: number): void {
      if (bytes + size > maxBytes) {
        throw new OutboxFull(`${bytes} of ${maxBytes} bytes wait for their acknowledgement`);
      }
      const command = { frame, owner };
      try {
        store.keep(command);
      } catch (cause) {
        const why = { code: "outbox_unwritable", cause };
        throw new OutboxUnusable(`The outbox cannot be written: ${cause}.`, why);
      }
      add(command, size);
    },

    release(conversationId: string, key: string): void {
      if (forget(keyOf(conversationId, key))) {
        try {
          store.release(conversationId, key);
        } catch {
          // it is sent once more, under its key, which the server knows
        }
      }
    },
  } satisfies Journal & Record<string, unknown>;
}

/** What `browserOutbox` keeps under one key of the storage. */
interface Entry extends KeptCommand {
  url: string;
}

/**
 * Return an outbox in the browser's `localStorage`; undefined where the page may keep nothing.
 *
 * Each tab has a box of its own, held by a Web Lock for as long as the tab lives, and takes over the boxes that
 * nobody holds: of tabs that were closed, crashed or reloaded. Where there are no locks (a page without HTTPS)
 * it takes over all: a command that two tabs send takes effect once, for its key is one.
 *
 * @param name tells apart what must not be mixed, e.g. two widgets on one page.
 * @param storage another one than `localStorage`.
 */
export function browserOutbox(
  name = "parley",
  storage: Storage | undefined = ownStorage(),
): OutboxStore | undefined {
  if (!storage) {
    return undefined;
  }
  const prefix = `parley-outbox:${name}:`;
  const box = Math.random().toString(36).slice(2);
  const places = new Map<string, string>();
  const locks = globalThis.navigator?.locks;
  let count = 0;
  let url = "";
  let letGo = () => {};
  const put = (entry: Entry, since = Date.now()) => {
    count += 1;
    const place = `${prefix}${box}:${since}:${1e9 + count}`; // of one width, so that they sort
    storage.setItem(place, JSON.stringify(entry));
    places.set(placeOf(entry), place);
  };
  const placesIn = (start: string) => Object.keys(storage).filter((place) => place.startsWith(start));
  const takeOver = (other: string): [number, Entry][] =>
    placesIn(`${prefix}${other}:`)
      .sort() // a storage tells its keys in any order; these sort by time, then by count
      .flatMap((place) => {
        const since = Number(place.slice(prefix.length).split(":")[1]);
        const entry = read(storage, place);
        if (!entry || Date.now() - since > MAX_AGE_MS) {
          storage.removeItem(place);
          return [];
        }
        if (entry.url !== url) {
          return [];
        }
        try {
          put(entry, since); // before the old one goes: a crash in between leaves two, and their key is one
          storage.removeItem(place);
        } catch {
          places.set(placeOf(entry), place); // there is no room for two: it stays where it is
        }
        return [[since, entry]];
      });

  return {
    async open(server) {
      url = server;
      const held = new Promise<void>((resolve) => {
        letGo = resolve;
      });
      locks?.request(prefix + box, () => held).catch(() => {});
      const found: [number, Entry][] = [];
      for (const other of new Set(
        placesIn(prefix).map((place) => place.slice(prefix.length).split(":")[0] as string),
      )) {
        if (other === box) {
          continue;
        }
        if (!locks) {
          found.push(...takeOver(other));
        } else {
          await locks.request(prefix + other, { ifAvailable: true }, (lock) => {
            if (lock) {
              found.push(...takeOver(other));
            }
          });
        }
      }
      return found.sort(([a], [b]) => a - b).map(([, entry]) => entry);
    },
    keep: (command) => put({ ...command, url }),
    release(conversationId, key) {
      const place = places.get(keyOf(conversationId, key));
      if (place) {
        places.delete(keyOf(conversationId, key));
        storage.removeItem(place);
      }
    },
    close: () => letGo(),
  };
}

function ownStorage(): Storage | undefined {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined; // a page in a sandbox, or a person who forbade it
  }
}

function read(storage: Storage, place: string): Entry | null {
  try {
    return JSON.parse(storage.getItem(place) as string);
  } catch {
    return null;
  }
}
