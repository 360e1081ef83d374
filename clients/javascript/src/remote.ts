/**
 * What `Parley` and `ExecutionHandle` do over REST.
 *
 * A page that only chats never loads this: it is imported by the first call that needs it.
 *
 * @module
 */
import { type Connection, within } from "./connection.js";
import type { CommandOptions, DecisionOptions, WaitOptions } from "./conversation.js";
import { errorFromWire } from "./errors.js";
import type { InboxEvent } from "./events.js";
import type { ExecutionHandle } from "./execution.js";
import { watchInbox } from "./inbox.js";
import type { ListOptions, StartOptions } from "./parley.js";
import { answersBody, decisionBody } from "./protocol.js";
import type { Execution, InboxItem, JsonObject, Pending, Raw, Receipt } from "./records.js";
import { pages, Rest, toExecution, toInboxItem, toReceipt } from "./rest.js";

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

  // --- one run, as `ExecutionHandle` says -----------------------------------------------------

  async get(run: ExecutionHandle, options: WaitOptions): Promise<Execution> {
    const found = toExecution(await this.#rest.get(pathOf(run), {}, within(options)));
    run.conversationId = found.conversation_id ?? run.conversationId;
    run.correlationId = found.correlation_id ?? run.correlationId;
    return found;
  }

  async pending(run: ExecutionHandle, options: WaitOptions): Promise<readonly Pending[]> {
    const { pending } = await this.get(run, options);
    return pending.filter((each) => each.kind !== "input" && each.decided === null);
  }

  accept(run: ExecutionHandle, pending: string | Pending, options: DecisionOptions): Promise<Receipt> {
    return this.#command(run, "acceptance", decisionBody(pending, true, options), options);
  }

  reject(run: ExecutionHandle, pending: string | Pending, options: DecisionOptions): Promise<Receipt> {
    return this.#command(run, "acceptance", decisionBody(pending, false, options), options);
  }

  answer(
    run: ExecutionHandle,
    pending: string | Pending,
    answers: JsonObject,
    options: CommandOptions,
  ): Promise<Receipt> {
    return this.#command(run, "clarification", answersBody(pending, answers), options);
  }

  pause(
    run: ExecutionHandle,
    options: CommandOptions & { reason?: string; deadlineMs?: number },
  ): Promise<Receipt> {
    return this.#command(run, "pause", { reason: options.reason, deadline_ms: options.deadlineMs }, options);
  }

  resume(run: ExecutionHandle, options: CommandOptions & { comment?: string }): Promise<Receipt> {
    return this.#command(run, "resume", { comment: options.comment }, options);
  }

  cancel(run: ExecutionHandle, options: CommandOptions & { reason?: string }): Promise<Receipt> {
    return this.#command(run, "cancel", { reason: options.reason }, options);
  }

  retry(run: ExecutionHandle, options: CommandOptions): Promise<Receipt> {
    return this.#command(run, "retry", {}, options);
  }

  signal(run: ExecutionHandle, name: string, payload: unknown, options: CommandOptions): Promise<Receipt> {
    return this.#command(run, "signal", { name, payload }, options);
  }

  async #command(run: ExecutionHandle, what: string, body: Raw, options: CommandOptions): Promise<Receipt> {
    return toReceipt(await this.#post(`${pathOf(run)}/${what}`, body, options));
  }

  // --- all of them ----------------------------------------------------------------------------

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
    for await (const raw of pages(this.#rest, "/executions", "executions", query, within(options))) {
      yield toExecution(raw);
    }
  }

  /** Yield what waits for a person. */
  async *inbox(options: WaitOptions & { pageSize?: number }): AsyncGenerator<InboxItem, void, undefined> {
    const query = { limit: options.pageSize ?? 50 };
    for await (const raw of pages(this.#rest, "/inbox", "items", query, within(options))) {
      yield toInboxItem(raw);
    }
  }

  /** Yield what comes to wait, and what is settled. */
  inboxEvents(signal?: AbortSignal): AsyncGenerator<InboxEvent> {
    return watchInbox(this.#rest, this.#connection, signal);
  }

  #post(path: string, body: Raw, options: CommandOptions): Promise<Raw> {
    return this.#rest.post(path, body, options.idempotencyKey ?? this.#connection.newId(), within(options));
  }
}

function pathOf({ executionId, conversationId }: ExecutionHandle): string {
  if (executionId === null) {
    throw errorFromWire({
      code: "wrong_state",
      message: "This start waits behind another run and has no id yet.",
      suggestion: `Watch the conversation ${conversationId}.`,
    });
  }
  return `/executions/${encodeURIComponent(executionId)}`;
}
