/**
 * What `Parley` and `ExecutionHandle` do over REST.
 *
 * A page that only chats never loads this: it is imported by the first call that needs it.
 *
 * @module
 */
import { type Connection, limitOf } from "./connection.js";
import type { CommandOptions, WaitOptions } from "./conversation.js";
import { WrongState } from "./errors.js";
import type { InboxEvent } from "./events.js";
import type { ExecutionHandle } from "./execution.js";
import { watchInbox } from "./inbox.js";
import type { ListOptions, StartOptions } from "./parley.js";
import type { Execution, InboxItem, Raw, Receipt } from "./records.js";
import { type Ask, pages, Rest, toExecution, toInboxItem, toReceipt } from "./rest.js";

export function createRemote(url: string, connection: Connection): Remote {
  return new Remote(new Rest(url, connection), connection);
}

/** Runs and inbox of one server; what its methods throw is said where an application calls them. */
export class Remote {
  #rest: Rest;
  #connection: Connection;

  constructor(rest: Rest, connection: Connection) {
    this.#rest = rest;
    this.#connection = connection;
  }

  /** Start a flow; returns the server's reply. */
  start(flowId: string, options: StartOptions): Promise<Raw> {
    const body = {
      initial_context: options.initialContext ?? {},
      input: options.input,
      version: options.version,
      conversation_id: options.conversationId,
      user_id: options.userId,
      project_id: options.projectId,
      channel: options.channel,
      request_id: options.requestId,
      correlation_id: options.correlationId,
      on_busy: options.onBusy,
    };
    return this.#post(`/flows/${encodeURIComponent(flowId)}/start`, body, options);
  }

  /** Ask where a run stands. */
  async execution(run: ExecutionHandle, options: WaitOptions): Promise<Execution> {
    return toExecution(await this.#rest.get(pathOf(run), {}, ask(options)));
  }

  /** Post a command about a run. */
  async post(run: ExecutionHandle, what: string, body: Raw, options: CommandOptions): Promise<Receipt> {
    return toReceipt(await this.#post(`${pathOf(run)}/${what}`, body, options));
  }

  /** Yield the runs that this principal may see. */
  async *executions(options: ListOptions): AsyncGenerator<Execution, void, undefined> {
    const text = (time?: Date | string) => (time instanceof Date ? time.toISOString() : time);
    const query = {
      status: options.status,
      flow_id: options.flowId,
      project_id: options.projectId,
      user_id: options.userId,
      since: text(options.since),
      until: text(options.until),
      limit: options.pageSize ?? 50,
    };
    for await (const raw of pages(this.#rest, "/executions", "executions", query, ask(options))) {
      yield toExecution(raw);
    }
  }

  /** Yield what waits for a person. */
  async *inbox(options: WaitOptions & { pageSize?: number }): AsyncGenerator<InboxItem, void, undefined> {
    const query = { limit: options.pageSize ?? 50 };
    for await (const raw of pages(this.#rest, "/inbox", "items", query, ask(options))) {
      yield toInboxItem(raw);
    }
  }

  /** Yield what comes to wait, and what is settled. */
  inboxEvents(signal?: AbortSignal): AsyncGenerator<InboxEvent> {
    return watchInbox(this.#rest, this.#connection, signal);
  }

  #post(path: string, body: Raw, options: CommandOptions): Promise<Raw> {
    return this.#rest.post(path, body, options.idempotencyKey ?? this.#connection.newId(), ask(options));
  }
}

function pathOf({ executionId, conversationId }: ExecutionHandle): string {
  if (executionId === null) {
    throw new WrongState("This start waits behind another run and has no id yet.", {
      suggestion: `Watch the conversation ${conversationId}.`,
    });
  }
  return `/executions/${encodeURIComponent(executionId)}`;
}

const ask = (options: WaitOptions): Ask => ({ timeoutMs: limitOf(options), signal: options.signal });
