/**
 * A bounded queue with one reader, as an async iterator.
 *
 * @module
 */
import { EventsOverflow, Timeout } from "./errors.js";

/**
 * Yields what is pushed, in order, until it is finished: `for await (const event of stream)`.
 *
 * Pushing never waits: the connection serves everybody, so a slow reader must not hold it up. Beyond its limit
 * of unread items the reader gets those and then `EventsOverflow`; what comes later is not kept. `break` leaves
 * it; nothing has to be closed.
 */
export class Stream<T> implements AsyncIterableIterator<T> {
  #limit: number;
  #items: T[] = [];
  #ended = false;
  #error: unknown = null;
  #waiting: (() => void)[] = [];
  #left: ((stream: this) => void) | null;
  #unhear = () => {};

  /** @internal */
  constructor(limit: number, onLeave: ((stream: Stream<T>) => void) | null = null, signal?: AbortSignal) {
    this.#limit = limit;
    this.#left = onLeave;
    if (signal) {
      this.#unhear = whenAborted(signal, (reason) => this.#leave(reason));
    }
  }

  /** Whether nothing more will be pushed. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Add an item; beyond the limit, end in `EventsOverflow`. @internal */
  push(item: T): void {
    if (this.#ended) {
      return;
    }
    if (this.#items.length >= this.#limit) {
      this.#leave(new EventsOverflow(`more than ${this.#limit} events were not read in time`));
    } else {
      this.#items.push(item);
      this.#wake();
    }
  }

  /** End behind what was pushed, with `error` if there is one. Only the first call counts. @internal */
  finish(error: unknown = null): void {
    if (!this.#ended) {
      this.#error = error;
      this.#ended = true;
      this.#left = null;
      this.#unhear();
      this.#wake();
    }
  }

  /** Stop reading; what is unread is dropped. */
  close(): void {
    this.#leave(null);
    this.#items = [];
  }

  /**
   * Return the next one, waiting at most `timeoutMs`; undefined where there is none any more.
   *
   * @throws Timeout none came in time; reading can go on.
   */
  async get(options: { timeoutMs?: number } = {}): Promise<T | undefined> {
    const { timeoutMs } = options;
    let late = false;
    const stop = () => {
      late = true;
      this.#wake();
    };
    const timer = timeoutMs == null ? undefined : setTimeout(stop, timeoutMs);
    while (!this.#items.length && !this.#ended && !late) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
    clearTimeout(timer);
    if (this.#items.length) {
      return this.#items.shift();
    }
    if (!this.#ended) {
      throw new Timeout(`nothing came within ${timeoutMs} ms`);
    }
    const error = this.#error;
    this.#error = null;
    if (error !== null) {
      throw error;
    }
    return undefined;
  }

  async next(): Promise<IteratorResult<T>> {
    const value = await this.get();
    return { done: value === undefined, value } as IteratorResult<T>;
  }

  async return(): Promise<IteratorResult<T>> {
    this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Let all that wait look again, in the order in which they came. */
  #wake(): void {
    for (const look of this.#waiting.splice(0)) {
      look();
    }
  }

  #leave(reason: unknown): void {
    const left = this.#left;
    this.finish(reason);
    left?.(this);
  }
}

/** Add to a set; returns what takes that back. */
export function added<T>(set: Set<T>, item: T): () => void {
  set.add(item);
  return () => {
    set.delete(item);
  };
}

/** Make a stream that is in a set until it is left. */
export function streamInto<T>(set: Set<Stream<T>>, limit: number, signal?: AbortSignal): Stream<T> {
  const stream = new Stream<T>(limit, (left) => set.delete(left), signal);
  if (!stream.ended) {
    set.add(stream);
  }
  return stream;
}

/** Call back once with the signal's reason, now or when it is aborted; returns what takes that back. */
export function whenAborted(signal: AbortSignal, callback: (reason: unknown) => void): () => void {
  const told = () => callback(signal.reason);
  if (signal.aborted) {
    told();
  } else {
    signal.addEventListener("abort", told);
  }
  return () => signal.removeEventListener("abort", told);
}
