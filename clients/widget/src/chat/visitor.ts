// Who this browser is to the server: a visitor, made with the page's key, kept and renewed with the same user id.

import type { Store } from "./store.js";

const SPARE_MS = 60_000; // a token that ends this soon is renewed first

interface Kept {
  token: string;
  expires_at: number;
}

/** Why there is no connection, in words for whoever runs the page. `final`: trying again by itself is in vain. */
export class Trouble extends Error {
  constructor(
    message: string,
    readonly code: string,
    readonly final: boolean,
  ) {
    super(message);
  }
}

/** Say which setting lets a page in. */
export function blocked(server: string): string {
  const { origin } = self; // and not of `location`, which gives files and sandboxed frames one that nobody sends
  const told = `This page's origin, ${origin}, may not connect to ${server}. `;
  return origin === "null"
    ? `${told}A file that is opened from the disk has none, nor has a sandboxed frame: serve the page over http.`
    : `${told}Let it in: start the server with PARLEY_ORIGINS=${origin}, or, where the page has a key, add it to that: parley origins add ${origin} --key KEY_ID.`;
}

/** Makes and renews a visitor. Two tabs make one. */
export class Visitor {
  #used: string | null = null;

  constructor(
    private readonly server: string,
    private readonly key: string | null,
    private readonly store: Store,
  ) {}

  /** Return a token; `fresh`: the last one is no longer taken. Throws Trouble. */
  async token(fresh: boolean): Promise<string> {
    const get = () => this.#current(fresh);
    const locks = navigator.locks as LockManager | undefined; // none on a page without HTTPS
    return locks ? await locks.request(`parley-visitor:${this.server}:${this.key ?? ""}`, get) : get();
  }

  /** The server does not know this browser any more. */
  forget(): void {
    this.store.drop("visitor");
  }

  get known(): boolean {
    return this.store.read<Kept>("visitor") !== null;
  }

  async #current(fresh: boolean): Promise<string> {
    const known = this.store.read<Kept>("visitor");
    const renewed = known !== null && known.token !== this.#used; // by another tab, or before this page came
    const lasts = known !== null && known.expires_at - Date.now() > SPARE_MS;
    if (!lasts || (fresh && !renewed)) return this.#ask(known);
    this.#used = known.token;
    return known.token;
  }

  async #ask(known: Kept | null, again = false): Promise<string> {
    const body = { ...(this.key ? { key: this.key } : {}), ...(known ? { token: known.token } : {}) };
    let response: Response;
    try {
      const headers = { "content-type": "application/json" };
      response = await fetch(`${this.server}/v1/visitors`, {
        method: "POST",
        headers,
        body: JSON.stringify(body),
      });
    } catch {
      // A browser does not say why it could not ask: find out whether the server is there, and lets others in.
      if (!(await this.#answers())) throw this.#unreachable();
      if (!again) return this.#ask(known, true); // it may have come back just now
      throw new Trouble(blocked(this.server), "origin_not_allowed", known === null);
    }
    const answer = await response.json().catch(() => ({}));
    if (response.ok) {
      this.store.write("visitor", { token: answer.token, expires_at: Date.now() + answer.expires_in * 1000 });
      this.#used = answer.token;
      return answer.token;
    }
    throw this.#refused(response.status, answer.error ?? {}, known);
  }

  #refused(
    status: number,
    error: { code?: string; message?: string; suggestion?: string; temporary?: boolean; field?: string },
    known: Kept | null,
  ): Trouble {
    const code = error.code ?? `http_${status}`;
    const ours = known !== null && status === 401 && error.field !== "key";
    const told = [error.message ?? `The server answered ${status}.`, error.suggestion]
      .filter(Boolean)
      .join(" ");
    const key =
      error.field === "key" && !this.key ? ' Give it to the widget: <parley-chat key="pk_...">.' : "";
    const message = code === "origin_not_allowed" ? blocked(this.server) : told + key;
    return new Trouble(
      message,
      ours ? "stranger" : code,
      ours || (status < 500 && status !== 429 && error.temporary !== true),
    );
  }

  async #answers(): Promise<boolean> {
    try {
      await fetch(`${this.server}/livez`, { mode: "no-cors", cache: "no-store" });
      return true;
    } catch {
      return false;
    }
  }

  #unreachable(): Trouble {
    const policy = "the page's Content-Security-Policy has to name it, http and ws, in connect-src";
    return new Trouble(`${this.server} cannot be reached. If it runs, ${policy}.`, "unreachable", false);
  }
}
