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
  random() * Math.min(LAST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** attempt);

/** A promise that is settled from outside. */
export interface Waiter<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

export function waiter<T = void>(): Waiter<T> {
  let settle = {};
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  promise.catch(() => {}); // who waits is told; where nobody waits there is nobody to tell
  return { promise, ...settle } as Waiter<T>;
}
