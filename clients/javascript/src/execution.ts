/**
 * Executions over REST: what a program without a conversation of its own starts, watches and decides.
 *
 * @module
 */
import type { CommandOptions, DecisionOptions, WaitOptions } from "./conversation.js";
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
  constructor(load: LoadRemote, told: Raw) {
    this.#load = load;
    this.executionId = told.execution_id ?? null;
    this.conversationId = told.conversation_id ?? null;
    this.correlationId = told.correlation_id ?? null;
  }

  /**
   * Ask where it stands.
   *
   * @throws ExecutionNotFound it does not exist, or is not this principal's to see.
   * @throws ParleyError as `accept`.
   */
  get(options: WaitOptions = {}): Promise<Execution> {
    return this.#load().then((remote) => remote.get(this, options));
  }

  /** Ask which acceptance requests and clarifications are open; throws as `get`. */
  pending(options: WaitOptions = {}): Promise<readonly Pending[]> {
    return this.#load().then((remote) => remote.pending(this, options));
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
  accept(pending: string | Pending, options: DecisionOptions = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.accept(this, pending, options));
  }

  /** Reject an acceptance request; throws as `accept`. */
  reject(pending: string | Pending, options: Omit<DecisionOptions, "edits"> = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.reject(this, pending, options));
  }

  /** Answer a clarification; throws `MissingAnswers`, and else as `accept`. */
  answer(pending: string | Pending, answers: JsonObject, options: CommandOptions = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.answer(this, pending, answers, options));
  }

  /**
   * Hold it until `resume`, or for `deadlineMs` milliseconds.
   *
   * @throws WrongState it has ended.
   * @throws ParleyError as `accept`.
   */
  pause(options: CommandOptions & { reason?: string; deadlineMs?: number } = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.pause(this, options));
  }

  /** Let it go on; throws `WrongState` where it is not paused. */
  resume(options: CommandOptions & { comment?: string } = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.resume(this, options));
  }

  /** End it; throws `WrongState` where it has ended. */
  cancel(options: CommandOptions & { reason?: string } = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.cancel(this, options));
  }

  /** Try again from the step that failed; throws `WrongState` where it has not failed. */
  retry(options: CommandOptions = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.retry(this, options));
  }

  /** Tell it that the event `name` has happened; throws `WrongState` if nothing waits for it. */
  signal(name: string, payload: unknown = null, options: CommandOptions = {}): Promise<Receipt> {
    return this.#load().then((remote) => remote.signal(this, name, payload, options));
  }
}
