/**
 * The server's REST side: one request, its retries, and the typed error of a refusal; and what it answers.
 *
 * @module
 */
import { type Clock, fullJitter } from "./clock.js";
import type { Connection } from "./connection.js";
import { ConnectionLost, errorFromWire, ParleyError } from "./errors.js";
import { encode } from "./protocol.js";
import {
  type Execution,
  given,
  hasEnded,
  type InboxItem,
  items,
  mapping,
  type Raw,
  type Receipt,
  toPending,
  toTurn,
} from "./records.js";
import { MAX_RETRY_MS, MAX_TRIES } from "./session.js";

/** How long one attempt may take. */
const ATTEMPT_TIMEOUT_MS = 15_000;
/** The server says something on a stream every few seconds. */
const STREAM_SILENCE_MS = 30_000;

/** What a request may take. */
export interface Ask {
  timeoutMs: number | null;
  signal?: AbortSignal | undefined;
}

/** Sends requests to one server. */
export class Rest {
  declare readonly url: string;
  #connection: Connection;
  #token: string | null = null;

  constructor(url: string, connection: Connection) {
    this.url = url;
    this.#connection = connection;
  }

  /** Return what the server has at `path` (relative to `/v1`); throws as `post`. */
  get(path: string, query: Raw, options: Ask): Promise<Raw> {
    return this.#ask("GET", path + search(query), undefined, {}, options);
  }

  /**
   * Post a command; every attempt carries the same `key`, so that it takes effect once. Temporary refusals and a
   * network that fails are tried again, up to six times.
   *
   * @throws Refused the server refused it.
   * @throws ConnectionLost no answer at the last attempt; it may have taken effect.
   * @throws Timeout no answer in time; the same.
   */
  async post(path: string, body: Raw, key: string, options: Ask): Promise<Raw> {
    return this.#ask("POST", path, encode(given(body)), { "Idempotency-Key": key }, options);
  }

  /** Whether a fresh token may help against this error; the next request asks for one then. */
  renew(error: ParleyError): boolean {
    if (this.#connection.isRenewable && (error.code === "unauthorized" || error.code === "token_expired")) {
      this.#token = null;
      return true;
    }
    return false;
  }

  async #ask(
    method: string,
    path: string,
    body: string | undefined,
    headers: Record<string, string>,
    { timeoutMs, signal }: Ask,
  ): Promise<Raw> {
    const ended = new AbortController();
    signal?.throwIfAborted();
    const late = `no answer to ${method} ${path} in time; it may have taken effect`;
    try {
      const answer = this.#insist(method, path, body, headers, ended.signal);
      return await this.#connection.limit(answer, { timeoutMs, signal }, late);
    } finally {
      ended.abort(); // who leaves takes the request along, also from a token that does not come
    }
  }

  /** Try until there is an answer that stays. */
  async #insist(
    method: string,
    path: string,
    body: string | undefined,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Raw> {
    let renewed = false;
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#try(method, path, body, headers, signal);
      } catch (error) {
        if (signal.aborted || !(error instanceof ParleyError)) {
          throw error;
        }
        if (!renewed && this.renew(error)) {
          renewed = true;
          continue;
        }
        const wait = Math.max(0, error.retryAfterMs ?? 0);
        if (!error.temporary || tries >= MAX_TRIES || wait > MAX_RETRY_MS) {
          throw error;
        }
        await this.#pause(wait || fullJitter(tries, this.#connection.random), signal);
      }
    }
  }

  async #try(
    method: string,
    path: string,
    body: string | undefined,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Raw> {
    const attempt = new AbortController();
    const end = () => attempt.abort();
    signal.addEventListener("abort", end);
    const stop = this.#connection.clock.callLater(ATTEMPT_TIMEOUT_MS, end);
    try {
      const reply = await this.#fetch(method, path, body, headers, attempt.signal);
      return this.#read(reply.status, reply.ok, await reply.text());
    } catch (cause) {
      throw cause instanceof ParleyError
        ? cause
        : new ConnectionLost(`no answer from ${this.url}: ${cause}`, { cause });
    } finally {
      stop();
      signal.removeEventListener("abort", end);
    }
  }

  /** Yield [name, data] of the server-sent events at `path`, until the server ends them. */
  async *stream(path: string, signal?: AbortSignal): AsyncGenerator<[string, Raw]> {
    const ended = new AbortController();
    const end = () => ended.abort(signal?.reason);
    signal?.throwIfAborted();
    signal?.addEventListener("abort", end);
    let stop = this.#connection.clock.callLater(STREAM_SILENCE_MS, end);
    try {
      const asked = this.#fetch("GET", path, undefined, { Accept: "text/event-stream" }, ended.signal);
      const reply = await this.#connection.limit(asked, { signal });
      if (!reply.ok || !reply.body) {
        this.#read(reply.status, false, await reply.text());
      }
      const reader = (reply.body as ReadableStream<Uint8Array>).getReader();
      const decoder = new TextDecoder();
      let text = "";
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        stop();
        stop = this.#connection.clock.callLater(STREAM_SILENCE_MS, end);
        text += decoder.decode(piece.value, { stream: true });
        const blocks = text.split(/\r?\n\r?\n/);
        text = blocks.pop() as string;
        yield* blocks.flatMap(serverSent);
      }
    } catch (cause) {
      throw cause instanceof ParleyError || signal?.aborted
        ? (signal?.reason ?? cause)
        : new ConnectionLost(`no more from ${this.url}: ${cause}`, { cause });
    } finally {
      stop();
      signal?.removeEventListener("abort", end);
      ended.abort();
    }
  }

  async #fetch(
    method: string,
    path: string,
    body: string | undefined,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Response> {
    this.#token ??= await this.#connection.getToken();
    const all: Record<string, string> = { Accept: "application/json", ...headers };
    if (this.#token !== null) {
      all.Authorization = `Bearer ${this.#token}`;
    }
    if (body !== undefined) {
      all["Content-Type"] = "application/json";
    }
    // a redirect would carry the token to wherever it leads
    const plain = { redirect: "error", cache: "no-store", credentials: "omit" } as const;
    return fetch(this.url + path, {
      method,
      headers: all,
      signal,
      ...plain,
      ...(body === undefined ? {} : { body }),
    });
  }

  #read(status: number, ok: boolean, text: string): Raw {
    let body: Raw = {};
    let isObject = false;
    try {
      body = JSON.parse(text);
      isObject = mapping(body) === body;
    } catch {
      // told below
    }
    if (isObject && ok) {
      return body;
    }
    if (isObject && mapping(body.error) === body.error) {
      throw errorFromWire(body.error);
    }
    throw errorFromWire({
      code: `http_${status}`,
      message: `${this.url} answered ${status}, and not as a Parley server does`,
      temporary: status >= 500 || [408, 425, 429].includes(status),
      suggestion: "Check the address, and what stands between here and there.",
    });
  }

  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    await sleep(this.#connection.clock, ms, signal);
    signal.throwIfAborted();
  }
}

/** Pause by this clock, until `signal` is aborted at the latest. */
export const sleep = (clock: Clock, ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const end = () => {
      stop();
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const stop = clock.callLater(ms, end);
    signal?.addEventListener("abort", end);
  });

/** Return the records of a list, page after page; `name` is the page's field that holds them. */
export async function* pages(
  rest: Rest,
  path: string,
  name: string,
  query: Raw,
  options: Ask,
): AsyncGenerator<Raw> {
  let cursor: unknown = null;
  do {
    const page = await rest.get(path, { ...query, cursor }, options);
    yield* page[name] ?? [];
    cursor = page.cursor ?? null;
  } while (cursor !== null);
}

/** Return [name, data] of one block; comments and ids are of no use here. */
function serverSent(block: string): [string, Raw][] {
  let name = "message";
  const data: string[] = [];
  for (const line of block.split(/\r?\n/)) {
    const [, field, value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (field === "event") {
      name = value;
    } else if (field === "data") {
      data.push(value);
    }
  }
  return data.length ? [[name, mapping(JSON.parse(data.join("\n")))]] : [];
}

function search(query: Raw): string {
  const text = new URLSearchParams(given(query) as Record<string, string>).toString();
  return text && `?${text}`;
}

export const toExecution = (raw: Raw): Execution =>
  ({
    conversation_id: null,
    status: "pending",
    flow_id: null,
    flow_version: null,
    project_id: null,
    user_id: null,
    input: null,
    output: null,
    error: null,
    current_step_id: null,
    completed_steps: [],
    correlation_id: null,
    request_id: null,
    started_at: null,
    updated_at: null,
    completed_at: null,
    ...raw,
    pending: items(raw.pending).map(toPending),
    ended: hasEnded(raw.status),
    raw,
  }) as unknown as Execution;

export const toInboxItem = (raw: Raw): InboxItem =>
  ({
    conversation_id: null,
    flow_id: null,
    user_id: null,
    wait_id: "",
    since: null,
    ...raw,
    pending: raw.pending ? toPending(raw.pending) : null,
    raw,
  }) as unknown as InboxItem;

export function toReceipt(raw: Raw): Receipt {
  const {
    command_id,
    status = "running",
    duplicate = false,
    execution_id = null,
    conversation_id = null,
  } = raw;
  const turn = raw.result
    ? toTurn(conversation_id ?? "", command_id, raw.result, status === "completed", execution_id, duplicate)
    : null;
  return { command_id, status, duplicate, execution_id, conversation_id, turn, raw };
}
