/**
 * Every error that this package throws; the tree is that of the Python client.
 *
 *     ParleyError                     everything below; has `code`, `message`, `temporary`, ...
 *     ├── Refused                     the server refused one request (unknown codes are just this)
 *     │   ├── BadRequest              bad_request; also InvalidFrame, UnknownType, PayloadTooLarge, ...
 *     │   ├── Unauthorized            unauthorized; also TokenExpired
 *     │   ├── PermissionDenied        permission_denied; also TenantInactive, OriginNotAllowed, PolicyViolation
 *     │   ├── NotFound                not_found; also ConversationNotFound, FlowNotFound, ExecutionNotFound,
 *     │   │                           PendingNotFound
 *     │   ├── Conflict                WrongState, PendingResolved, PendingExpired, ConversationBusy,
 *     │   │                           IdempotencyConflict
 *     │   ├── Unprocessable           FlowInvalid, MissingAnswers
 *     │   ├── TryLater                RateLimited, InboxFull, Internal, Overloaded, StoreUnavailable,
 *     │   │                           DependencyUnavailable
 *     │   └── TurnError               StepFailed, Cancelled, LoopDetected, Expired (inside `TurnFailed` only)
 *     ├── TurnFailed                  the command was accepted and its turn failed; `error` says why
 *     ├── ConnectionLost              no connection could be made in time
 *     ├── ConnectionClosed            the connection has ended for good; `closeCode`, `reason`
 *     ├── Timeout                     the caller's time is up; the command stands
 *     ├── OutboxFull                  too many commands wait to be sent; nothing was taken
 *     ├── OutboxUnusable              the outbox is in use, damaged, or somebody else's
 *     └── EventsOverflow              a slow reader of events was cut off; nothing is lost on the server
 *
 * What was refused is made as one class, and for those below `Refused` `instanceof` goes by its `code`: so a bundler
 * leaves out the classes that an application does not name.
 *
 * @module
 */
import type { Turn } from "./records.js";
import type { ErrorBody } from "./wire.js";

type Facts = Record<string, unknown>;
type Details = Readonly<Facts>;

/** What more is known of an error. */
export interface ErrorOptions {
  code?: string | undefined;
  temporary?: boolean | undefined;
  retryAfterMs?: number | null | undefined;
  field?: string | null | undefined;
  details?: Details | null | undefined;
  suggestion?: string | null | undefined;
  docs?: string | null | undefined;
  cause?: unknown;
}

/** Anything that goes wrong in this package. */
export class ParleyError extends Error {
  /** The code of this class; its name is the class's. */
  static readonly code: string = "parley_error";
  static readonly temporary: boolean = false;

  /** The error code of the protocol, or one of this package's own (`timeout`, ...). */
  declare readonly code: string;
  /** Whether the same call may succeed later. */
  declare readonly temporary: boolean;
  /** When trying again may help, in milliseconds. */
  declare readonly retryAfterMs: number | null;
  /** Dotted path of the offending field, e.g. `content.text`. */
  declare readonly field: string | null;
  /** Structured facts. */
  declare readonly details: Details | null;
  /** What would be right. */
  declare readonly suggestion: string | null;
  /** Where this code is explained. */
  declare readonly docs: string | null;

  constructor(message: string, options: ErrorOptions = {}) {
    const { code, temporary } = new.target;
    super(message, options.cause ? options : {});
    const facts: Facts = {
      code,
      temporary,
      retryAfterMs: null,
      field: null,
      details: null,
      suggestion: null,
      docs: null,
    };
    for (const name in facts) {
      facts[name] = options[name as keyof ErrorOptions] ?? facts[name];
    }
    Object.assign(this, facts, { name: nameOf(code) });
  }
}

/** Return what the class of a code is called, for a bundler shortens the names of classes: `timeout`, `Timeout`. */
const nameOf = (code: string) => code.replace(/(^|_)./g, (letters) => letters.slice(-1).toUpperCase());

/** A refusal, and so an instance of `Refused` and of those classes below it that its code belongs to. */
class Refusal extends ParleyError {
  get decided(): Details {
    return (this.details?.decided ?? {}) as Details;
  }

  get missing(): readonly string[] {
    return [this.details?.missing ?? []].flat().map(String);
  }
}

/** The server refused one request; nothing changed and the connection goes on. */
export class Refused extends ParleyError {
  static override readonly code: string = "refused";
  /** Of a family: the codes of its instances. @internal */
  declare static readonly codes: readonly string[];

  static override [Symbol.hasInstance](error: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: the class that is asked about may be one below this one
    return isOne(error, this);
  }
}

/** Whether this is an error of `Refused` or of a class below it. */
function isOne(error: unknown, kind: typeof Refused): boolean {
  if (!(error instanceof Refusal)) {
    return Function.prototype[Symbol.hasInstance].call(kind, error);
  }
  // what a class inherits says nothing about it: one that an application derives has no code of its own
  const own = Object.hasOwn(kind, "code") ? [kind.code] : [];
  const codes = Object.hasOwn(kind, "codes") ? kind.codes : own;
  return kind === Refused || codes.includes(error.code);
}

/** A field is missing or has a wrong value. */
export class BadRequest extends Refused {
  static override readonly code: string = "bad_request";
  static override readonly codes = [
    "bad_request",
    "invalid_frame",
    "unknown_type",
    "payload_too_large",
    "unsupported_media_type",
  ];
}

/** What was sent is not a frame: too deep, a number beyond 2**53, a lone surrogate. */
export class InvalidFrame extends BadRequest {
  static override readonly code = "invalid_frame";
}

/** The server does not know this frame type; it is older than this client. */
export class UnknownType extends BadRequest {
  static override readonly code = "unknown_type";
}

/** The frame exceeds what the server accepts. */
export class PayloadTooLarge extends BadRequest {
  static override readonly code = "payload_too_large";
}

/** The body is not JSON. */
export class UnsupportedMediaType extends BadRequest {
  static override readonly code = "unsupported_media_type";
}

/** The credential is missing or wrong. */
export class Unauthorized extends Refused {
  static override readonly code: string = "unauthorized";
  static override readonly codes = ["unauthorized", "token_expired"];
}

/** The credential was right once. */
export class TokenExpired extends Unauthorized {
  static override readonly code = "token_expired";
}

/** The credential does not allow this. */
export class PermissionDenied extends Refused {
  static override readonly code: string = "permission_denied";
  static override readonly codes = [
    "permission_denied",
    "tenant_inactive",
    "origin_not_allowed",
    "policy_violation",
  ];
}

/** The organisation has been switched off. */
export class TenantInactive extends PermissionDenied {
  static override readonly code = "tenant_inactive";
}

/** The page's origin is not on the list. */
export class OriginNotAllowed extends PermissionDenied {
  static override readonly code = "origin_not_allowed";
}

/** A policy of the tenant forbids this. */
export class PolicyViolation extends PermissionDenied {
  static override readonly code = "policy_violation";
}

/** There is no such thing, or it belongs to somebody else. */
export class NotFound extends Refused {
  static override readonly code: string = "not_found";
  static override readonly codes = [
    "not_found",
    "conversation_not_found",
    "flow_not_found",
    "execution_not_found",
    "pending_not_found",
  ];
}

/** The conversation does not exist, was deleted, or belongs to somebody else. */
export class ConversationNotFound extends NotFound {
  static override readonly code = "conversation_not_found";
}

/** There is no such flow, or none to start with. */
export class FlowNotFound extends NotFound {
  static override readonly code = "flow_not_found";
}

/** There is no such execution. */
export class ExecutionNotFound extends NotFound {
  static override readonly code = "execution_not_found";
}

/** There is no such pending request. */
export class PendingNotFound extends NotFound {
  static override readonly code = "pending_not_found";
}

/** The request does not fit the conversation's present state. */
export class Conflict extends Refused {
  static override readonly code: string = "conflict";
  static override readonly codes = [
    "wrong_state",
    "pending_resolved",
    "pending_expired",
    "conversation_busy",
    "idempotency_conflict",
  ];
}

/** The execution's status does not allow this. */
export class WrongState extends Conflict {
  static override readonly code = "wrong_state";
}

/** Somebody has decided this pending request; `decided` says who and what. */
export class PendingResolved extends Conflict {
  static override readonly code = "pending_resolved";

  /** `{by, at, accepted, comment, edits, answers, digest}`; empty where only your own vote was one. */
  get decided(): Details {
    return decided(this.details);
  }
}

/** The deadline of this pending request is over; the flow goes on as its `on_timeout` says. */
export class PendingExpired extends Conflict {
  static override readonly code = "pending_expired";

  /** What was decided for everybody when the time was up; empty where nothing was. */
  get decided(): Details {
    return decided(this.details);
  }
}

/** The conversation is at work, and `onBusy` was `reject`. */
export class ConversationBusy extends Conflict {
  static override readonly code = "conversation_busy";
  static override readonly temporary = true;
}

/** This idempotency key was used for another command. */
export class IdempotencyConflict extends Conflict {
  static override readonly code = "idempotency_conflict";
}

/** Well-formed, but it cannot be used. */
export class Unprocessable extends Refused {
  static override readonly code: string = "unprocessable";
  static override readonly codes = ["flow_invalid", "missing_answers"];
}

/** The flow has errors; `details` list them. */
export class FlowInvalid extends Unprocessable {
  static override readonly code = "flow_invalid";
}

/** A clarification needs more answers; it stays open, so answer again with those that are `missing`. */
export class MissingAnswers extends Unprocessable {
  static override readonly code = "missing_answers";

  /** The ids of the questions that lack an answer, or lack one that fits. */
  get missing(): readonly string[] {
    return [this.details?.missing ?? []].flat().map(String);
  }
}

/** The server cannot do it now. This client has tried several times before it throws this. */
export class TryLater extends Refused {
  static override readonly code: string = "try_later";
  static override readonly codes = [
    "rate_limited",
    "inbox_full",
    "internal",
    "overloaded",
    "store_unavailable",
    "dependency_unavailable",
  ];
  static override readonly temporary = true;
}

/** Too many requests; `retryAfterMs` says when. */
export class RateLimited extends TryLater {
  static override readonly code = "rate_limited";
}

/** Too many messages wait for this conversation's turn. */
export class InboxFull extends TryLater {
  static override readonly code = "inbox_full";
}

/** The server failed. */
export class Internal extends TryLater {
  static override readonly code = "internal";
}

/** The server has too much to do. */
export class Overloaded extends TryLater {
  static override readonly code = "overloaded";
}

/** The server cannot reach its database. */
export class StoreUnavailable extends TryLater {
  static override readonly code = "store_unavailable";
}

/** Something that the server depends on is away. */
export class DependencyUnavailable extends TryLater {
  static override readonly code = "dependency_unavailable";
}

/** Why a turn failed; occurs as `TurnFailed.error` only. */
export class TurnError extends Refused {
  static override readonly code: string = "turn_error";
  static override readonly codes = ["step_failed", "cancelled", "loop_detected", "expired"];
}

/** A step of the flow failed. */
export class StepFailed extends TurnError {
  static override readonly code = "step_failed";
}

/** The turn was cancelled by a cancel, a reset or a deletion. */
export class Cancelled extends TurnError {
  static override readonly code = "cancelled";
}

/** The flow went in circles. */
export class LoopDetected extends TurnError {
  static override readonly code = "loop_detected";
}

/** The execution's time was up. */
export class Expired extends TurnError {
  static override readonly code = "expired";
}

/** The command was accepted, and the turn that it caused failed. */
export class TurnFailed extends ParleyError {
  static override readonly code = "turn_failed";
  /** Why, as a typed error (`StepFailed`, `Cancelled`, ...). */
  declare readonly error: Refused;
  /** What the turn said and did before it failed. */
  declare readonly turn: Turn;

  constructor(error: Refused, turn: Turn) {
    super(error.message, { ...error, cause: error });
    Object.assign(this, { error, turn });
  }
}

/** No connection could be made in the time given; `cause` is the last reason. */
export class ConnectionLost extends ParleyError {
  static override readonly code = "connection_lost";
  static override readonly temporary = true;
}

/** The connection has ended for good: closed by us, or with a code after which one does not return. */
export class ConnectionClosed extends ParleyError {
  static override readonly code = "connection_closed";
  /** The WebSocket close code (1000 when this side closed). */
  declare readonly closeCode: number;
  /** What the server said. */
  declare readonly reason: string;

  constructor(closeCode: number, reason: string) {
    super(`${reason || "the connection is closed"} (close code ${closeCode})`);
    Object.assign(this, { closeCode, reason });
  }
}

/** The caller's time is up. The command is not undone: it is still sent, and still takes effect once. */
export class Timeout extends ParleyError {
  static override readonly code = "timeout";
  static override readonly temporary = true;
}

/** Too many commands, or too large ones, wait for their acknowledgement; this one was not taken. */
export class OutboxFull extends ParleyError {
  static override readonly code = "outbox_full";
  static override readonly temporary = true;
}

/**
 * The outbox cannot be used: `code` is `outbox_in_use`, `outbox_unreadable`, `outbox_unwritable`, or
 * `outbox_of_another` where the commands in it are another user's or for another server.
 */
export class OutboxUnusable extends ParleyError {
  static override readonly code = "outbox_unusable";
}

/** A reader of events fell behind its bound and was cut off; begin anew, from `chat.snapshot`. */
export class EventsOverflow extends ParleyError {
  static override readonly code = "events_overflow";
  static override readonly temporary = true;
}

/** Make the typed error of an `error` object; one of an unknown code is a `Refused` and nothing more. */
export function errorFromWire(error: Readonly<globalThis.Partial<ErrorBody>>): Refused {
  const { code = "internal", message = code, retry_after_ms: retryAfterMs } = error;
  const made = new Refusal(message, { ...error, code, retryAfterMs });
  return Object.assign(made, { name: nameOf(code) }) as Refused;
}

const decided = (details: Details | null) => (details?.decided ?? {}) as Details;
