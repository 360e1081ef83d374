/**
 * Executions over REST: what a program without a conversation of its own starts, watches and decides.
 *
 * @module
 */
import {
  answersBody,
  type CommandOptions,
  type DecisionOptions,
  decisionBody,
  type WaitOptions,
} from "./conversation.js";
import type { Execution, JsonObject, Pending, Raw, Receipt } from "./records.js";
import type { Remote } from "./remote.js";

/** Loads what speaks REST to this client's server. */
export type LoadRemote = () => Promise<Remote>;

/**
 * One run of a flow. Get it from `parley.start` or `parley.execution`.
 *
 * Its calls go over REST and need no open connection. Each returns when the command is durable, not when what it
 * causes is done: to see that, ask `get` again, or watch `parley.conversation(conversationId)`.
 */
export class ExecutionHandle {
  /** Its id; null of a start that waits behind another run. */
  declare readonly executionId: string | null;
  /** The conversation that it runs in; null until the server has told. */
  declare conversationId: string | null;
  /** What its events, logs and outgoing calls carry; null until the server has told. */
  declare correlationId: string | null;
  #load: LoadRemote;

  /** @internal */
  constructor(load: LoadRemote, executionId: string | null, told: Raw = {}) {
    this.#load = load;
    this.executionId = executionId;
    this.conversationId = told.conversation_id ?? null;
    this.correlationId = told.correlation_id ?? null;
  }

  /**
   * Ask where it stands.
   *
   * @throws ExecutionNotFound it does not exist, or is not this principal's to see.
   * @throws ParleyError as `accept`.
   */
  async get(options: WaitOptions = {}): Promise<Execution> {
    const remote = await this.#load();
    const found = await remote.execution(this, options);
    this.conversationId = found.conversation_id ?? this.conversationId;
    this.correlationId = found.correlation_id ?? this.correlationId;
    return found;
  }

  /** Ask which acceptance requests and clarifications are open; throws as `get`. */
  async pending(options: WaitOptions = {}): Promise<readonly Pending[]> {
    const { pending } = await this.get(options);
    return pending.filter((each) => each.kind !== "input" && each.decided === null);
  }

  /**
   * Accept an acceptance request; arguments as `conversation.accept`.
   *
   * @throws PendingResolved somebody was faster; `decided` says who, and what.
   * @throws PendingExpired its deadline is over.
   * @throws PermissionDenied it is for others to decide.
   * @throws WrongState what would run is not what was shown; look again.
   * @throws BadRequest an edit that is not allowed or not valid; `field` names it.
   * @throws Refused the server refused it for another reason.
   * @throws ConnectionLost no answer, after several attempts; it may have taken effect, and calling again with
   *   the same `idempotencyKey` is safe.
   * @throws Timeout the same within `timeoutMs`.
   */
  async accept(pending: string | Pending, options: DecisionOptions = {}): Promise<Receipt> {
    return this.#post("acceptance", decisionBody(pending, true, options), options);
  }

  /** Reject an acceptance request; throws as `accept`. */
  async reject(pending: string | Pending, options: Omit<DecisionOptions, "edits"> = {}): Promise<Receipt> {
    return this.#post("acceptance", decisionBody(pending, false, options), options);
  }

  /** Answer a clarification; throws `MissingAnswers`, and else as `accept`. */
  async answer(
    pending: string | Pending,
    answers: JsonObject,
    options: CommandOptions = {},
  ): Promise<Receipt> {
    return this.#post("clarification", answersBody(pending, answers), options);
  }

  /**
   * Hold it until `resume`, or for `deadlineMs` milliseconds.
   *
   * @throws WrongState it has ended.
   * @throws ParleyError as `accept`.
   */
  pause(options: CommandOptions & { reason?: string; deadlineMs?: number } = {}): Promise<Receipt> {
    return this.#post("pause", { reason: options.reason, deadline_ms: options.deadlineMs }, options);
  }

  /** Let it go on; throws `WrongState` where it is not paused. */
  resume(options: CommandOptions & { comment?: string } = {}): Promise<Receipt> {
    return this.#post("resume", { comment: options.comment }, options);
  }

  /** End it; throws `WrongState` where it has ended. */
  cancel(options: CommandOptions & { reason?: string } = {}): Promise<Receipt> {
    return this.#post("cancel", { reason: options.reason }, options);
  }

  /** Try again from the step that failed; throws `WrongState` where it has not failed. */
  retry(options: CommandOptions = {}): Promise<Receipt> {
    return this.#post("retry", {}, options);
  }

  /** Tell it that the event `name` has happened; throws `WrongState` if nothing waits for it. */
  signal(name: string, payload: unknown = null, options: CommandOptions = {}): Promise<Receipt> {
    return this.#post("signal", { name, payload }, options);
  }

  async #post(what: string, body: Raw, options: CommandOptions): Promise<Receipt> {
    const remote = await this.#load();
    return remote.post(this, what, body, options);
  }
}
