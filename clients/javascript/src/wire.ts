/**
 * The frames, events and records of `parley.v1`, as they are on the wire.
 *
 * Written by `npm run generate` from protocol/schema.json; do not edit.
 *
 * @module
 */

export type ClientFrame =
  | Hello
  | Auth
  | Subscribe
  | Unsubscribe
  | Process
  | State
  | Reset
  | Acceptance
  | Clarification
  | Cancel
  | History
  | Typing
  | Pong;
export type ServerFrame =
  | Welcome
  | Ack
  | ErrorFrame
  | Events
  | MessageDelta
  | Snapshot
  | Unsubscribed
  | Ping
  | AuthRequired
  | TypingNotice
  | Disconnect;
export type KnownEvent =
  | TurnCompletedEvent
  | TurnFailedEvent
  | MessageReceivedEvent
  | MessageCompletedEvent
  | MessageRetractedEvent
  | SlotsUpdatedEvent
  | VariablesUpdatedEvent
  | ClarificationRequestedEvent
  | AcceptanceRequestedEvent
  | PendingResolvedEvent
  | PendingExpiredEvent
  | ExecutionStartedEvent
  | ExecutionWaitingEvent
  | ExecutionResumedEvent
  | ExecutionPausedEvent
  | ExecutionCompletedEvent
  | ExecutionFailedEvent
  | ExecutionCancelledEvent
  | ExecutionExpiredEvent
  | StepStartedEvent
  | StepCompletedEvent
  | StepFailedEvent
  | StepRetryingEvent
  | StepSkippedEvent
  | ActionPerformedEvent
  | HandoffRequestedEvent
  | ConversationCreatedEvent
  | ConversationResetEvent
  | FlowCustomEvent;

/**
 * The first frame: who am I, which conversation, where do I stand. Also authenticates.
 */
export interface Hello {
  type: "hello";
  id: string;
  token?: string | null;
  conversation_id?: string | null;
  resume?: Resume | null;
  client?: ClientInfo | null;
  locale?: string | null;
  timezone?: string | null;
}
/**
 * Where the client stands: everything up to and including `offset` of `epoch` was seen.
 */
export interface Resume {
  epoch: string | null;
  offset: number;
}
/**
 * Which SDK speaks; for logs and metrics only.
 */
export interface ClientInfo {
  name: string;
  version: string;
}
/**
 * Replaces the connection's token by a fresh one of the same tenant and user.
 */
export interface Auth {
  type: "auth";
  id: string;
  token: string;
}
/**
 * Starts to watch a conversation, by its id or by one of its executions.
 */
export interface Subscribe {
  type: "subscribe";
  id: string;
  conversation_id?: string | null;
  execution_id?: string | null;
  resume?: Resume | null;
}
/**
 * Stops watching a conversation.
 */
export interface Unsubscribe {
  type: "unsubscribe";
  id: string;
  conversation_id: string;
}
/**
 * Says something in a conversation; creates the conversation if it does not exist.
 */
export interface Process {
  type: "process";
  id: string;
  conversation_id: string;
  idempotency_key?: string | null;
  content: Content;
  channel?: "web" | "whatsapp" | "messenger" | "slack" | "teams" | "voice" | "sms" | "api";
  flow_id?: string | null;
  user_id?: string | null;
  tenant_id?: string | null;
  on_busy?: "enqueue" | "reject" | "interrupt";
  processing_hints?: {
    [k: string]: unknown;
  };
}
/**
 * What a person said (`text`) or pressed (`payload`); at least one of the two.
 */
export interface Content {
  type: "text" | "button" | "form";
  text?: string | null;
  payload?: string | null;
  metadata?: {
    [k: string]: unknown;
  };
}
/**
 * Asks for the state record.
 */
export interface State {
  type: "state";
  id: string;
  conversation_id: string;
}
/**
 * Cancels what runs and clears slots, variables and context.
 */
export interface Reset {
  type: "reset";
  id: string;
  conversation_id: string;
  idempotency_key?: string | null;
  reason?: string;
}
/**
 * Accepts or rejects a pending acceptance request.
 */
export interface Acceptance {
  type: "acceptance";
  id: string;
  conversation_id: string;
  idempotency_key?: string | null;
  pending_id: string;
  accepted: boolean;
  comment?: string | null;
  edits?: {
    [k: string]: unknown;
  };
  digest?: string | null;
  user_id?: string | null;
}
/**
 * Answers the questions of a pending clarification request, by question id.
 */
export interface Clarification {
  type: "clarification";
  id: string;
  conversation_id: string;
  idempotency_key?: string | null;
  pending_id: string;
  answers: {
    [k: string]: unknown;
  };
  user_id?: string | null;
}
/**
 * Cancels the current execution; `execution_id`, if given, must be it.
 */
export interface Cancel {
  type: "cancel";
  id: string;
  conversation_id: string;
  idempotency_key?: string | null;
  execution_id?: string | null;
  reason?: string | null;
}
/**
 * Asks for older messages: oldest first, `before` exclusive.
 */
export interface History {
  type: "history";
  id: string;
  conversation_id: string;
  before?: number | null;
  limit?: number;
}
/**
 * Tells the others that this person is typing; a hint, without an answer.
 */
export interface Typing {
  type: "typing";
  conversation_id: string;
  typing: boolean;
}
/**
 * Answers `ping`.
 */
export interface Pong {
  type: "pong";
}
/**
 * Answers `hello`. `recovered` says whether replay (true) or a snapshot (false) follows.
 */
export interface Welcome {
  type: "welcome";
  id: string;
  connection_id: string;
  protocol: "parley.v1";
  conversation_id: string | null;
  epoch: string | null;
  offset: number;
  recovered: boolean;
  principal: PrincipalInfo;
  ping_interval: number;
  token_expires_in: number | null;
  limits: ConnectionLimits;
}
/**
 * Who the server takes the client for.
 */
export interface PrincipalInfo {
  user_id: string;
  tenant_id: string;
  role: string;
  scopes: string[];
  tier: string;
}
/**
 * What this connection may send.
 */
export interface ConnectionLimits {
  max_frame_bytes: number;
  frames_per_second: number;
}
/**
 * The command is durably accepted, or the request is answered.
 */
export interface Ack {
  type: "ack";
  id: string;
  duplicate: boolean;
  command_id: string | null;
  status: "completed" | "failed" | "running" | "queued";
  execution_id: string | null;
  epoch: string | null;
  offset: number | null;
  result: unknown;
}
/**
 * One frame is refused; `id` is null where the frame could not be parsed.
 */
export interface ErrorFrame {
  type: "error";
  id: string | null;
  error: ErrorBody;
}
/**
 * The error object of the wire, of REST and of `turn.failed`.
 */
export interface ErrorBody {
  code: string;
  message: string;
  temporary: boolean;
  retry_after_ms: number | null;
  field: string | null;
  details: {
    [k: string]: unknown;
  } | null;
  suggestion: string | null;
  docs: string;
}
/**
 * One or more whole consecutive commits: offsets `from` to `to`, both included.
 */
export interface Events {
  type: "events";
  conversation_id: string;
  epoch: string;
  from: number;
  to: number;
  events: EventRecord[];
}
/**
 * One event as it stands in the log; `data` depends on `type` (see `events.py`).
 */
export interface EventRecord {
  type: string;
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: {
    [k: string]: unknown;
  };
}
/**
 * A piece of a message that is being written; a hint without an offset.
 */
export interface MessageDelta {
  type: "message.delta";
  conversation_id: string;
  execution_id: string;
  message_id: string;
  index: number;
  delta: string;
}
/**
 * Replaces all that the client knew of the conversation.
 */
export interface Snapshot {
  type: "snapshot";
  conversation_id: string;
  epoch: string | null;
  offset: number;
  state: StateRecord | null;
  messages: Message[];
  before: number | null;
  pending: PendingRequest[];
  partials: Partial[];
}
/**
 * Where a conversation stands. `status` is the execution's, `idle` without one.
 *
 * `slots` is empty for the `agent` audience; `truncated` occurs in snapshots, where values that did
 * not fit were left out.
 */
export interface StateRecord {
  conversation_id: string;
  current_state: string;
  status:
    | "idle"
    | "pending"
    | "running"
    | "waiting_input"
    | "waiting_clarification"
    | "waiting_acceptance"
    | "waiting_timer"
    | "waiting_event"
    | "paused"
    | "completed"
    | "failed"
    | "cancelled"
    | "expired";
  flow_id: string | null;
  flow_version: number | null;
  user_id: string | null;
  channel: string;
  locale: string | null;
  slots: {
    [k: string]: unknown;
  };
  variables: {
    [k: string]: unknown;
  };
  pending: PendingRequest[];
  completed_steps: string[];
  created_at: string;
  last_activity: string;
  message_count: number;
  epoch: string;
  offset: number;
}
/**
 * An open question of an execution. `by` null: the conversation's owner decides.
 *
 * `answers` are those given so far, by question id; `votes` those of an acceptance that takes several.
 */
export interface PendingRequest {
  pending_id: string;
  kind: "input" | "clarification" | "acceptance";
  step_id: string;
  title: string | null;
  prompt: string | null;
  questions: PendingQuestion[];
  editable: string[];
  by: {
    [k: string]: unknown;
  } | null;
  answers: {
    [k: string]: unknown;
  };
  votes: {
    [k: string]: unknown;
  }[];
  digest: string | null;
  deadline: string | null;
  created_at: string;
  decided: {
    [k: string]: unknown;
  } | null;
}
/**
 * One question of a pending request.
 */
export interface PendingQuestion {
  id: string;
  text: string;
  type: string;
  options: string[];
  required: boolean;
}
/**
 * One message of a conversation. `offset` is that of the event that brought it.
 */
export interface Message {
  message_id: string;
  role: "user" | "assistant" | "agent" | "system";
  type: "text" | "buttons" | "card" | "form" | "error";
  text: string | null;
  payload: unknown;
  buttons: Button[];
  metadata: {
    [k: string]: unknown;
  };
  user_id: string | null;
  time: string;
  offset: number;
}
/**
 * A choice offered with a message; pressing it sends `content.payload`.
 */
export interface Button {
  title: string;
  payload: string;
}
/**
 * What has been streamed so far of a message that is not complete.
 */
export interface Partial {
  message_id: string;
  text: string;
  next_index: number;
}
/**
 * The server ended a subscription.
 */
export interface Unsubscribed {
  type: "unsubscribed";
  conversation_id: string;
  code: string;
}
/**
 * Are you there? `offsets`: the last `to` sent for each watched conversation.
 */
export interface Ping {
  type: "ping";
  offsets: {
    [k: string]: number;
  };
}
/**
 * The token expires in that many seconds; send `auth` with a fresh one.
 */
export interface AuthRequired {
  type: "auth.required";
  expires_in: number;
}
/**
 * Somebody else in the conversation is typing.
 */
export interface TypingNotice {
  type: "typing";
  conversation_id: string;
  user_id: string;
  typing: boolean;
}
/**
 * The server is about to close the connection with `code`.
 */
export interface Disconnect {
  type: "disconnect";
  code: number;
  reason: string;
  reconnect: boolean;
  reconnect_within_ms: number | null;
}
/**
 * The event `turn.completed`.
 */
export interface TurnCompletedEvent {
  type: "turn.completed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: TurnCompletedData;
}
/**
 * A command's turn came to a wait or to the end. `actions_performed` is for `full` only.
 */
export interface TurnCompletedData {
  conversation_id: string;
  current_state: string;
  response: TurnResponse;
  context_updates: ContextUpdates;
  actions_performed: PerformedAction[];
  processing_time_ms: number;
  success: boolean;
  ab_variant: string | null;
}
/**
 * What the flow said in the turn.
 */
export interface TurnResponse {
  messages: Message[];
}
/**
 * What the turn changed, by name; an agent sees no slots.
 */
export interface ContextUpdates {
  slots: {
    [k: string]: unknown;
  };
  variables: {
    [k: string]: unknown;
  };
}
/**
 * An effect that ran.
 */
export interface PerformedAction {
  name: string;
  effect: "read" | "idempotent" | "write";
  duration_ms: number;
}
/**
 * The event `turn.failed`.
 */
export interface TurnFailedEvent {
  type: "turn.failed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: TurnFailedData;
}
/**
 * A command's turn failed, or was cancelled; what was said until then is in `response`.
 */
export interface TurnFailedData {
  conversation_id: string;
  current_state: string;
  response: TurnResponse;
  error: ErrorBody;
}
/**
 * The event `message.received`.
 */
export interface MessageReceivedEvent {
  type: "message.received";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: Message;
}
/**
 * The event `message.completed`.
 */
export interface MessageCompletedEvent {
  type: "message.completed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: Message;
}
/**
 * The event `message.retracted`.
 */
export interface MessageRetractedEvent {
  type: "message.retracted";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: MessageRetractedData;
}
/**
 * A streamed message that a retry replaces by one with another id.
 */
export interface MessageRetractedData {
  message_id: string;
}
/**
 * The event `slots.updated`.
 */
export interface SlotsUpdatedEvent {
  type: "slots.updated";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: SlotsUpdatedData;
}
/**
 * Slots that changed, by name; null: cleared.
 */
export interface SlotsUpdatedData {
  slots: {
    [k: string]: unknown;
  };
}
/**
 * The event `variables.updated`.
 */
export interface VariablesUpdatedEvent {
  type: "variables.updated";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: VariablesUpdatedData;
}
/**
 * Variables that changed, by name.
 */
export interface VariablesUpdatedData {
  variables: {
    [k: string]: unknown;
  };
}
/**
 * The event `clarification.requested`.
 */
export interface ClarificationRequestedEvent {
  type: "clarification.requested";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: PendingRequest;
}
/**
 * The event `acceptance.requested`.
 */
export interface AcceptanceRequestedEvent {
  type: "acceptance.requested";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: PendingRequest;
}
/**
 * The event `pending.resolved`.
 */
export interface PendingResolvedEvent {
  type: "pending.resolved";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: PendingEndedData;
}
/**
 * A pending request was decided, or nobody decided it in time.
 */
export interface PendingEndedData {
  pending_id: string;
  kind: "input" | "clarification" | "acceptance";
  decided: {
    [k: string]: unknown;
  } | null;
}
/**
 * The event `pending.expired`.
 */
export interface PendingExpiredEvent {
  type: "pending.expired";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: PendingEndedData;
}
/**
 * The event `execution.started`.
 */
export interface ExecutionStartedEvent {
  type: "execution.started";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * An execution changed its status. `error` is `{code, message, step_id, details}`.
 */
export interface ExecutionData {
  status: string;
  flow_id: string;
  flow_version: number;
  output: unknown;
  error: {
    [k: string]: unknown;
  } | null;
}
/**
 * The event `execution.waiting`.
 */
export interface ExecutionWaitingEvent {
  type: "execution.waiting";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * The event `execution.resumed`.
 */
export interface ExecutionResumedEvent {
  type: "execution.resumed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * The event `execution.paused`.
 */
export interface ExecutionPausedEvent {
  type: "execution.paused";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * The event `execution.completed`.
 */
export interface ExecutionCompletedEvent {
  type: "execution.completed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * The event `execution.failed`.
 */
export interface ExecutionFailedEvent {
  type: "execution.failed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * The event `execution.cancelled`.
 */
export interface ExecutionCancelledEvent {
  type: "execution.cancelled";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * The event `execution.expired`.
 */
export interface ExecutionExpiredEvent {
  type: "execution.expired";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ExecutionData;
}
/**
 * The event `step.started`.
 */
export interface StepStartedEvent {
  type: "step.started";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: StepData;
}
/**
 * One visit of a step; `attempt` counts from 1.
 */
export interface StepData {
  visit: number;
  attempt: number;
  error: {
    [k: string]: unknown;
  } | null;
}
/**
 * The event `step.completed`.
 */
export interface StepCompletedEvent {
  type: "step.completed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: StepData;
}
/**
 * The event `step.failed`.
 */
export interface StepFailedEvent {
  type: "step.failed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: StepData;
}
/**
 * The event `step.retrying`.
 */
export interface StepRetryingEvent {
  type: "step.retrying";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: StepData;
}
/**
 * The event `step.skipped`.
 */
export interface StepSkippedEvent {
  type: "step.skipped";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: StepData;
}
/**
 * The event `action.performed`.
 */
export interface ActionPerformedEvent {
  type: "action.performed";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: PerformedAction;
}
/**
 * The event `handoff.requested`.
 */
export interface HandoffRequestedEvent {
  type: "handoff.requested";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: HandoffRequestedData;
}
/**
 * The flow hands the conversation to people.
 */
export interface HandoffRequestedData {
  to: string;
}
/**
 * The event `conversation.created`.
 */
export interface ConversationCreatedEvent {
  type: "conversation.created";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ConversationCreatedData;
}
/**
 * The first command made the conversation; its user owns it.
 */
export interface ConversationCreatedData {
  user_id: string | null;
  channel: string;
}
/**
 * The event `conversation.reset`.
 */
export interface ConversationResetEvent {
  type: "conversation.reset";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: ConversationResetData;
}
/**
 * Slots, variables and context were cleared; offsets go on.
 */
export interface ConversationResetData {
  reason: string;
}
/**
 * The event `flow.custom`.
 */
export interface FlowCustomEvent {
  type: "flow.custom";
  offset: number;
  time: string;
  execution_id: string | null;
  step_id: string | null;
  command_id: string | null;
  cause: string | null;
  data: FlowCustomData;
}
/**
 * What an `emit` step sends.
 */
export interface FlowCustomData {
  name: string;
  payload: unknown;
}
/**
 * `ack.result` of `history`: oldest first; `before` null at the start of the conversation.
 */
export interface HistoryResult {
  messages: Message[];
  before: number | null;
}
/**
 * `ack.result` of `subscribe`.
 */
export interface SubscribeResult {
  conversation_id: string;
  epoch: string | null;
  offset: number;
  recovered: boolean;
}

export type ErrorCode =
  | "bad_request"
  | "invalid_frame"
  | "unknown_type"
  | "unauthorized"
  | "token_expired"
  | "permission_denied"
  | "tenant_inactive"
  | "origin_not_allowed"
  | "policy_violation"
  | "conversation_not_found"
  | "flow_not_found"
  | "execution_not_found"
  | "pending_not_found"
  | "not_found"
  | "wrong_state"
  | "pending_resolved"
  | "pending_expired"
  | "conversation_busy"
  | "payload_too_large"
  | "unsupported_media_type"
  | "flow_invalid"
  | "missing_answers"
  | "idempotency_conflict"
  | "rate_limited"
  | "inbox_full"
  | "internal"
  | "overloaded"
  | "store_unavailable"
  | "dependency_unavailable"
  | "step_failed"
  | "cancelled"
  | "loop_detected"
  | "expired";
