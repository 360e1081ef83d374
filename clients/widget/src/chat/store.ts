// What outlives a reload, where the browser keeps anything at all.

const memory = new Map<string, unknown>();

/** Entries whose names begin with `scope`. */
export class Store {
  constructor(private readonly scope: string) {}

  read<T>(name: string): T | null {
    const key = this.#key(name);
    try {
      const text = localStorage.getItem(key);
      return text === null ? ((memory.get(key) as T) ?? null) : (JSON.parse(text) as T);
    } catch {
      return (memory.get(key) as T) ?? null;
    }
  }

  write(name: string, value: unknown): void {
    const key = this.#key(name);
    memory.set(key, value);
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      // kept for as long as this page lives
    }
  }

  drop(name: string): void {
    const key = this.#key(name);
    memory.delete(key);
    try {
      localStorage.removeItem(key);
    } catch {
      // it was never there
    }
  }

  #key(name: string): string {
    return `${this.scope}.${name}`;
  }
}
