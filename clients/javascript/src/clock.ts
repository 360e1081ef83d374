/**
 * The clock of this client, as a port, so that tests need not wait.
 *
 * @module
 */

/** Monotonic time, and calls that are due. */
export interface Clock {
  /** Return milliseconds since any fixed moment. */
  now(): number;
  /** Call back once, `delayMs` from now; returns what takes that back. */
  callLater(delayMs: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  callLater(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

const FIRST_BACKOFF_MS = 500;
export const LAST_BACKOFF_MS = 20_000;

/**
 * Return the pause before a reconnection: uniform between 0 and a bound that doubles.
 *
 * Full jitter spreads a crowd that was cut off at one moment best (AWS Architecture Blog, "Exponential Backoff
 * And Jitter", 2015).
 */
export const fullJitter = (attempt: number, random: () => number): number =>
  random() * Math.min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.min(attempt, 16));

/** Pause by this clock. */
export const sleep = (clock: Clock, ms: number): Promise<void> =>
  new Promise((resolve) => {
    clock.callLater(ms, resolve);
  });

/** A promise that is settled from outside, by this clock at the latest. */
export class Waiter<T> {
  readonly promise: Promise<T>;
  #settled = false;
  #resolve!: (value: T) => void;
  #reject!: (error: unknown) => void;
  #stops: (() => void)[] = [];

  constructor() {
    this.promise = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.promise.catch(() => {}); // who waits is told; where nobody waits there is nobody to tell
  }

  /** Call this when it is settled. */
  atEnd(stop: () => void): void {
    if (this.#settled) {
      stop();
    } else {
      this.#stops.push(stop);
    }
  }

  resolve(value: T): void {
    this.#end();
    this.#resolve(value);
  }

  reject(error: unknown): void {
    this.#end();
    this.#reject(error);
  }

  #end(): void {
    this.#settled = true;
    for (const stop of this.#stops.splice(0)) {
      stop();
    }
  }
}
