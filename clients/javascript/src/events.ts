/**
 * What `chat.send` and `chat.events` yield and listeners get: a union that `event.type` tells apart.
 *
 * Events of the log have an `offset`; `data` is what came over the wire, the other fields are its parts. Their
 * names are those of the wire and of the Python client. A type that this version does not know comes as
 * `unknown`. Four more are no events of the log and have no offset: `message.delta`, `typing`, `snapshot` and
 * `unsubscribed`.
 *
 *     switch (event.type) {
 *       case "message.delta":
 *         show(event.delta);
 *         break;
 *       case "message.completed":
 *         show(event.message.text);
 *     }
 *
 * @module
 */
import { errorFromWire, type ParleyError, type Refused } from "./errors.js";
import {
  type InboxItem,
  type JsonObject,
  type Message,
  mapping,
  type Pending,
  type Raw,
  type Snapshot,
  toMessage,
  toPending,
  toTurn,
} from "./records.js";
import type * as wire from "./wire.js";

/** What the events of the log have in common. */
export interface EventBase<Type extends string> {
  /** The event's type on the wire. */
  readonly type: Type;
  readonly conversation_id: string;
  /** Its place; null where an ack told the end of a turn whose events lie before a snapshot. */
  readonly offset: number | null;
  /** ISO 8601. */
  readonly time: string | null;
  readonly execution_id: string | null;
  readonly step_id: string | null;
  /** The idempotency key of the command that caused it, or null; then `cause` says what did. */
  readonly command_id: string | null;
  readonly cause: string | null;
  /** What came over the wire. */
  readonly data: JsonObject;
}

/** An event of a type that this version of the client does not know; `event_type` names it. */
export interface UnknownEvent extends EventBase<"unknown"> {
  readonly event_type: string;
}
/** The turn of a command has ended well; the last event of `chat.send`. */
export interface TurnCompleted extends EventBase<"turn.completed"> {
  readonly current_state: string;
  readonly messages: readonly Message[];
  readonly slots: JsonObject;
  readonly variables: JsonObject;
  readonly success: boolean;
  readonly processing_time_ms: number | null;
  readonly ab_variant: string | null;
}
/** The turn of a command has failed; the last event of `chat.send` then. `error` says why. */
export interface TurnFailed extends EventBase<"turn.failed"> {
  readonly current_state: string;
  readonly messages: readonly Message[];
  readonly error: Refused;
}
/** A person said something: the user or an agent. */
export interface MessageReceived extends EventBase<"message.received"> {
  readonly message: Message;
}
/** The flow said something; the whole text, also where pieces of it came before. */
export interface MessageCompleted extends EventBase<"message.completed"> {
  readonly message: Message;
}
/** What was streamed under this id is void; it comes again under another one. */
export interface MessageRetracted extends EventBase<"message.retracted"> {
  readonly message_id: string;
}
/** These slots changed. */
export interface SlotsUpdated extends EventBase<"slots.updated"> {
  readonly slots: JsonObject;
}
/** These variables changed. */
export interface VariablesUpdated extends EventBase<"variables.updated"> {
  readonly variables: JsonObject;
}
/** The flow asks; answer with `chat.answer(event.pending, { ... })`. */
export interface ClarificationRequested extends EventBase<"clarification.requested"> {
  readonly pending: Pending;
}
/** The flow wants a decision: `chat.accept` or `chat.reject`. */
export interface AcceptanceRequested extends EventBase<"acceptance.requested"> {
  readonly pending: Pending;
}
/** An open request was answered. */
export interface PendingResolved extends EventBase<"pending.resolved"> {
  readonly pending_id: string;
  readonly kind: string;
  readonly decided: JsonObject;
}
/** An open request's deadline is over. */
export interface PendingExpired extends EventBase<"pending.expired"> {
  readonly pending_id: string;
  readonly kind: string;
  readonly decided: JsonObject;
}
/** What the `execution.*` events have in common. */
export interface ExecutionEvent<Type extends string> extends EventBase<Type> {
  readonly status: string;
  readonly flow_id: string | null;
  readonly flow_version: number | null;
  readonly output: unknown;
  readonly error: JsonObject | null;
}
/** A flow has started. */
export type ExecutionStarted = ExecutionEvent<"execution.started">;
/** The flow waits for somebody or something; `status` says for what. */
export type ExecutionWaiting = ExecutionEvent<"execution.waiting">;
/** The flow goes on. */
export type ExecutionResumed = ExecutionEvent<"execution.resumed">;
/** The flow is held; a person has the conversation. */
export type ExecutionPaused = ExecutionEvent<"execution.paused">;
/** The flow is at its end. */
export type ExecutionCompleted = ExecutionEvent<"execution.completed">;
/** The flow has failed. */
export type ExecutionFailed = ExecutionEvent<"execution.failed">;
/** The flow was cancelled. */
export type ExecutionCancelled = ExecutionEvent<"execution.cancelled">;
/** The flow's time was up. */
export type ExecutionExpired = ExecutionEvent<"execution.expired">;
/** What the `step.*` events have in common; seen with the scope `conversations:inspect` only. */
export interface StepEvent<Type extends string> extends EventBase<Type> {
  readonly visit: number | null;
  readonly attempt: number | null;
  readonly error: JsonObject | null;
}
/** A step has begun. */
export type StepStarted = StepEvent<"step.started">;
/** A step is done. */
export type StepCompleted = StepEvent<"step.completed">;
/** A step has failed. */
export type StepFailed = StepEvent<"step.failed">;
/** A step is tried again. */
export type StepRetrying = StepEvent<"step.retrying">;
/** A step was left out. */
export type StepSkipped = StepEvent<"step.skipped">;
/** A side effect was done; seen with the scope `conversations:inspect` only. */
export interface ActionPerformed extends EventBase<"action.performed"> {
  readonly name: string;
  readonly effect: string;
  readonly duration_ms: number | null;
}
/** A person is asked to take over. */
export interface HandoffRequested extends EventBase<"handoff.requested"> {
  readonly to: string | null;
}
/** The first event of a conversation. */
export interface ConversationCreated extends EventBase<"conversation.created"> {
  readonly user_id: string | null;
  readonly channel: string | null;
}
/** The conversation begins afresh; what was said before is not shown any more. */
export interface ConversationReset extends EventBase<"conversation.reset"> {
  readonly reason: string | null;
}
/** What the flow's `emit` step sends. */
export interface FlowCustom extends EventBase<"flow.custom"> {
  readonly name: string;
  readonly payload: unknown;
}

/** The next piece of a message that is being written; a hint. `message.completed` holds the whole. */
export type MessageDelta = Readonly<wire.MessageDelta>;
/** Somebody else in the conversation types, or has stopped. */
export type TypingNotice = Readonly<wire.TypingNotice>;
/**
 * Too much was missed to be replayed: `snapshot` replaces what was known. Comes when a watched conversation
 * that exists is first seen, too.
 */
export interface SnapshotReplaced {
  readonly type: "snapshot";
  readonly conversation_id: string;
  readonly snapshot: Snapshot;
}
/** The server ended the subscription (deleted, access lost); the last one of `chat.events`. */
export interface SubscriptionEnded {
  readonly type: "unsubscribed";
  readonly conversation_id: string;
  readonly error: ParleyError;
}

/** Something waits for a person; from `parley.inboxEvents`. */
export interface InboxOpened {
  readonly type: "opened";
  readonly item: InboxItem;
}
/** It waits no more: `decided` says how it was decided, where that is still known. */
export interface InboxSettled {
  readonly type: "settled";
  readonly item: InboxItem;
  readonly decided: JsonObject | null;
}
/** What waited at the beginning has been told: so many `items`. */
export interface InboxReady {
  readonly type: "ready";
  readonly items: number;
}
/** What `parley.inboxEvents` yields. */
export type InboxEvent = InboxOpened | InboxSettled | InboxReady;

/** An event of the log. */
export type Event =
  | TurnCompleted
  | TurnFailed
  | MessageReceived
  | MessageCompleted
  | MessageRetracted
  | SlotsUpdated
  | VariablesUpdated
  | ClarificationRequested
  | AcceptanceRequested
  | PendingResolved
  | PendingExpired
  | ExecutionStarted
  | ExecutionWaiting
  | ExecutionResumed
  | ExecutionPaused
  | ExecutionCompleted
  | ExecutionFailed
  | ExecutionCancelled
  | ExecutionExpired
  | StepStarted
  | StepCompleted
  | StepFailed
  | StepRetrying
  | StepSkipped
  | ActionPerformed
  | HandoffRequested
  | ConversationCreated
  | ConversationReset
  | FlowCustom
  | UnknownEvent;
/** All that a conversation tells. */
export type AnyEvent = Event | MessageDelta | TypingNotice | SnapshotReplaced | SubscriptionEnded;

type Parts = (data: Raw) => Record<string, unknown>;

const plain =
  (...names: string[]): Parts =>
  (data) =>
    Object.fromEntries(names.map((name) => [name, data[name] ?? null]));
/** What a `turn.*` event shares with the turn that it ends. */
const turn = (data: Raw) => {
  const { state: current_state, messages, slots, variables, success, ...rest } = toTurn("", "", data, true);
  const { processing_time_ms, ab_variant } = rest;
  return { current_state, messages, slots, variables, success, processing_time_ms, ab_variant };
};
const message: Parts = (data) => ({ message: toMessage(data) });
const pending: Parts = (data) => ({ pending: toPending(data) });
const decided: Parts = ({ pending_id, kind = "", decided: how }) => ({
  pending_id,
  kind,
  decided: mapping(how),
});
const execution = plain("status", "flow_id", "flow_version", "output", "error");
const step = plain("visit", "attempt", "error");
const PARTS: Readonly<Record<string, Parts | null>> = {
  __proto__: null, // a type is anything

  "turn.completed": turn,
  "turn.failed": (data) => {
    const { current_state, messages } = turn(data);
    return { current_state, messages, error: errorFromWire(mapping(data.error)) };
  },
  "message.received": message,
  "message.completed": message,
  "message.retracted": plain("message_id"),
  "slots.updated": (data) => ({ slots: mapping(data.slots) }),
  "variables.updated": (data) => ({ variables: mapping(data.variables) }),
  "clarification.requested": pending,
  "acceptance.requested": pending,
  "pending.resolved": decided,
  "pending.expired": decided,
  "execution.started": execution,
  "execution.waiting": execution,
  "execution.resumed": execution,
  "execution.paused": execution,
  "execution.completed": execution,
  "execution.failed": execution,
  "execution.cancelled": execution,
  "execution.expired": execution,
  "step.started": step,
  "step.completed": step,
  "step.failed": step,
  "step.retrying": step,
  "step.skipped": step,
  "action.performed": plain("name", "effect", "duration_ms"),
  "handoff.requested": plain("to"),
  "conversation.created": plain("user_id", "channel"),
  "conversation.reset": plain("reason"),
  "flow.custom": plain("name", "payload"),
};

/** Make the typed event of a record of an `events` frame. */
export function parseEvent(conversationId: string, raw: Raw): Event {
  const type = String(raw.type);
  const data = mapping(raw.data);
  const parts = PARTS[type];
  return {
    ...(parts ? { type } : { type: "unknown", event_type: type }),
    conversation_id: conversationId,
    ...plain("offset", "time", "execution_id", "step_id", "command_id", "cause")(raw),
    data,
    ...parts?.(data),
  } as unknown as Event;
}
