/**
 * The records of the protocol: messages, pending requests, state, snapshot, turn.
 *
 * Their fields have the names that they have on the wire, in REST and in the Python client. They are made
 * leniently: unknown fields stay, missing ones take their default, so that another version of the server does
 * not break this client. Times are the wire's ISO 8601 texts; `new Date(text)` reads them.
 *
 * @module
 */
import type * as wire from "./wire.js";

/** A JSON object. */
export type JsonObject = Readonly<Record<string, unknown>>;
/** An object of the wire before anybody has looked into it. */
// biome-ignore lint/suspicious/noExplicitAny: every field is looked at before it is used
export type Raw = Readonly<Record<string, any>>;

/** A quick reply; pressing it is `chat.send({ payload: button.payload })`. */
export type Button = Readonly<wire.Button>;
/** What somebody said. */
export type Message = Readonly<wire.Message>;
/** One question of a clarification. */
export type Question = Readonly<wire.PendingQuestion>;
/** An open question of an execution to a person; its `digest` stands for what an acceptance lets run. */
export type Pending = Readonly<wire.PendingRequest>;
/** Where a conversation stands. */
export type State = Readonly<Omit<wire.StateRecord, "epoch"> & { epoch: string | null; truncated?: boolean }>;
/** Who the server takes this client for. */
export type Principal = Readonly<wire.PrincipalInfo>;
/** A place in a conversation: everything up to and including `offset` of `epoch` was handed out. */
export interface Cursor {
  readonly epoch: string | null;
  readonly offset: number;
}

/** What this client knows of a conversation now: the server's snapshot with the events since folded in. */
export interface Snapshot {
  readonly conversation_id: string;
  /** Null while the conversation does not exist. */
  readonly epoch: string | null;
  /** Everything up to here is folded in. */
  readonly offset: number;
  /** Null while the conversation does not exist; its `pending` is this `pending`. */
  readonly state: State | null;
  /** The newest ones, oldest first, at most 1,000. */
  readonly messages: readonly Message[];
  /** Pass it to `chat.history({ before })` to go on backwards; null where nothing is older. */
  readonly before: number | null;
  /** Open requests to a person. */
  readonly pending: readonly Pending[];
  /** Texts so far of messages that are being written, by message id. */
  readonly partials: Readonly<Record<string, string>>;
}

/** Older messages, oldest first; `before` asks for the page before this one (null: there is none). */
export interface HistoryPage {
  readonly messages: readonly Message[];
  readonly before: number | null;
}

/** What one command caused, from its acceptance to the next wait or the end. */
export interface Turn {
  readonly conversation_id: string;
  /** The command's idempotency key. */
  readonly command_id: string;
  /** What the flow said in it. */
  readonly messages: readonly Message[];
  /** The same as one text: the messages' texts, a line each. */
  readonly text: string;
  /** The step that the conversation is at now; `idle` when none. */
  readonly state: string;
  /** The slots that changed, by name (empty for viewers who may not see them). */
  readonly slots: JsonObject;
  /** The variables that changed and are exposed, by name. */
  readonly variables: JsonObject;
  readonly actions: readonly JsonObject[];
  readonly processing_time_ms: number | null;
  /** False where the turn failed (then `TurnFailed` carries this record). */
  readonly success: boolean;
  readonly ab_variant: string | null;
  readonly execution_id: string | null;
  /** The key was known; this is the outcome of the first time. */
  readonly duplicate: boolean;
  /** The data of the `turn.*` event as it came. */
  readonly raw: JsonObject;
}

/** One run of a flow. */
export interface Execution {
  readonly execution_id: string;
  readonly conversation_id: string | null;
  /** E.g. `running`, `waiting_acceptance`, `completed`; `idle` occurs in states of conversations only. */
  readonly status: wire.StateRecord["status"];
  readonly flow_id: string | null;
  readonly flow_version: number | null;
  readonly project_id: string | null;
  readonly user_id: string | null;
  /** What it was started with, besides slots and variables. */
  readonly input: unknown;
  /** What its `end` step gave. */
  readonly output: unknown;
  /** `{code, message, step_id, details}` where it failed. */
  readonly error: JsonObject | null;
  readonly current_step_id: string | null;
  readonly completed_steps: readonly string[];
  /** Its open requests that this viewer may see. */
  readonly pending: readonly Pending[];
  readonly correlation_id: string | null;
  readonly request_id: string | null;
  readonly started_at: string | null;
  readonly updated_at: string | null;
  readonly completed_at: string | null;
  /** Whether nothing more will happen in it (but for `retry` of one that has failed). */
  readonly ended: boolean;
  /** The whole record as it came. */
  readonly raw: JsonObject;
}

/** What waits for a person somewhere in the tenant; decide it by `parley.execution(execution_id)`. */
export interface InboxItem {
  readonly kind: "acceptance" | "clarification" | "handoff";
  readonly execution_id: string;
  readonly conversation_id: string | null;
  readonly flow_id: string | null;
  /** Whose conversation it is; null of a workflow without a user. */
  readonly user_id: string | null;
  /** Its own id: of the request, or of the execution that is handed off. */
  readonly wait_id: string;
  /** When it began to wait. */
  readonly since: string | null;
  /** The request itself; null of a hand-off. */
  readonly pending: Pending | null;
  /** The item as it came. */
  readonly raw: JsonObject;
}

/** A command is durable: what REST answers before the turn that follows has ended. */
export interface Receipt {
  /** Its idempotency key. */
  readonly command_id: string;
  /** `running` or `queued`; `completed` or `failed` where the turn has ended already. */
  readonly status: "running" | "queued" | "completed" | "failed";
  /** The key was known; this is the outcome of the first time. */
  readonly duplicate: boolean;
  readonly execution_id: string | null;
  readonly conversation_id: string | null;
  /** What it caused, where the turn has ended already. */
  readonly turn: Turn | null;
  /** The reply as it came. */
  readonly raw: JsonObject;
}

/** Tell what a value of JSON is: `typeof`, but for lists and null. */
export const kindOf = (value: unknown) =>
  value === null ? value : Array.isArray(value) ? "array" : typeof value;

/** Return a JSON object, or an empty one where it is something else. */
export const mapping = (value: unknown): Raw => (kindOf(value) === "object" ? (value as Raw) : {});

/** Return the objects of a JSON list, or nothing where it is something else. */
export const items = (value: unknown): Raw[] =>
  Array.isArray(value) ? value.filter((item) => kindOf(item) === "object") : [];

/** Return what is given, without what is null or undefined. */
export const given = (fields: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null));

/** Whether an execution in this status has ended. */
export const hasEnded = (status: unknown) => /^(completed|failed|cancelled|expired)$/.test(status as string);

export const toMessage = (raw: Raw): Message =>
  ({
    message_id: "",
    role: "assistant",
    type: "text",
    text: null,
    payload: null,
    metadata: {},
    user_id: null,
    ...raw,
    buttons: items(raw.buttons),
  }) as unknown as Message;

export const toPending = (raw: Raw): Pending =>
  ({
    title: null,
    prompt: null,
    editable: [],
    by: null,
    votes: [],
    digest: null,
    deadline: null,
    decided: null,
    ...raw,
    answers: mapping(raw.answers),
    questions: items(raw.questions).map((each) => ({ type: "text", options: [], required: true, ...each })),
  }) as unknown as Pending;

export const toState = (raw: Raw): State =>
  ({
    flow_id: null,
    flow_version: null,
    user_id: null,
    channel: null,
    locale: null,
    slots: {},
    variables: {},
    completed_steps: [],
    message_count: 0,
    epoch: null,
    offset: 0,
    truncated: false,
    ...raw,
    current_state: raw.current_state ?? "idle",
    status: raw.status ?? "idle",
    pending: items(raw.pending).map(toPending),
  }) as unknown as State;

/** Make a turn from the data of a `turn.*` event, which is an ack's `result` too. */
export function toTurn(
  conversationId: string,
  commandId: string,
  data: Raw,
  completed: boolean,
  executionId: string | null = null,
  duplicate = false,
): Turn {
  const updates = mapping(data.context_updates);
  const messages = items(mapping(data.response).messages).map(toMessage);
  return {
    conversation_id: conversationId,
    command_id: commandId,
    messages,
    text: messages.flatMap((message) => message.text || []).join("\n"),
    state: data.current_state ?? "idle",
    slots: mapping(updates.slots),
    variables: mapping(updates.variables),
    actions: items(data.actions_performed),
    processing_time_ms: data.processing_time_ms ?? null,
    success: completed && data.success !== false,
    ab_variant: data.ab_variant ?? null,
    execution_id: executionId,
    duplicate,
    raw: data,
  };
}
