/**
 * What a client knows of one conversation: the server's snapshot with the later events folded in.
 *
 * @module
 */
import {
  hasEnded,
  items,
  type JsonObject,
  type Message,
  mapping,
  type Pending,
  type Raw,
  type Snapshot,
  toMessage,
  toPending,
  toState,
} from "./records.js";

/** Older ones are dropped; `before` moves, so that `history` goes on where this ends. */
const MAX_MESSAGES = 1000;

/** Folds snapshots and events, without I/O. */
export class Mirror {
  #id: string;
  #epoch: string | null = null;
  #offset = 0;
  #state: Record<string, unknown> | null = null;
  #messages = new Map<string, Message>();
  #pending = new Map<string, Pending>();
  #before: number | null = null;
  #list: readonly Message[] | null = null;

  constructor(conversationId: string) {
    this.#id = conversationId;
  }

  /** Know nothing. */
  clear(): void {
    this.#epoch = this.#state = this.#before = this.#list = null;
    this.#offset = 0;
    this.#messages.clear();
    this.#pending.clear();
  }

  /** The newest messages, oldest first; the same array until one comes or goes. */
  get messages(): readonly Message[] {
    this.#list ??= [...this.#messages.values()];
    return this.#list;
  }

  /** The open requests to a person, oldest first. */
  get pending(): readonly Pending[] {
    return [...this.#pending.values()];
  }

  /** Return all that is known. */
  snapshot(partials: Readonly<Record<string, string>>): Snapshot {
    const { pending, messages } = this;
    const place = { epoch: this.#epoch, offset: this.#offset };
    return {
      conversation_id: this.#id,
      ...place,
      state: this.#state && toState({ ...this.#state, ...place, pending }),
      messages,
      before: this.#before,
      pending,
      partials,
    };
  }

  /** Take a `snapshot` frame. */
  replace(frame: Raw): void {
    this.clear();
    this.#epoch = frame.epoch ?? null;
    this.#offset = frame.offset;
    this.#state = frame.state && { ...frame.state };
    this.#before = frame.before ?? null;
    for (const raw of items(frame.messages)) {
      this.#addMessage(raw);
    }
    for (const raw of items(frame.pending)) {
      this.#addPending(raw);
    }
  }

  /** Fold the events of an `events` frame, which the session has found to be next. */
  apply(epoch: string, to: number, events: readonly Raw[]): void {
    this.#epoch = epoch;
    this.#offset = to;
    for (const event of events) {
      this.#fold(String(event.type), event, mapping(event.data));
    }
  }

  #fold(type: string, event: Raw, data: Raw): void {
    this.#state ??= { conversation_id: this.#id, created_at: event.time };
    const state = this.#state;
    state.last_activity = event.time;
    switch (type) {
      case "message.received":
      case "message.completed":
        state.message_count = ((state.message_count as number) || 0) + 1;
        this.#addMessage(data);
        break;
      case "message.retracted":
        this.#messages.delete(data.message_id);
        this.#list = null;
        break;
      case "turn.completed":
      case "turn.failed":
        state.current_state = data.current_state;
        break;
      case "slots.updated":
        state.slots = merged(state.slots, data.slots);
        break;
      case "variables.updated":
        state.variables = merged(state.variables, data.variables);
        break;
      case "clarification.requested":
      case "acceptance.requested":
        this.#addPending(data);
        break;
      case "pending.resolved":
      case "pending.expired":
        this.#pending.delete(data.pending_id);
        break;
      case "conversation.created":
        state.user_id = data.user_id;
        state.channel = data.channel;
        break;
      case "conversation.reset":
        this.#reset(state);
        break;
      default:
        if (type.startsWith("execution.")) {
          this.#foldExecution(state, event, data);
        }
    }
  }

  #foldExecution(state: Record<string, unknown>, event: Raw, data: Raw): void {
    const { status, flow_id = null, flow_version = null } = data;
    if (event.type === "execution.started") {
      state.variables = {};
      state.completed_steps = [];
    } else if ((state.flow_id ?? null) !== flow_id || (state.flow_version ?? null) !== flow_version) {
      state.variables = {}; // it went over to another flow
    }
    Object.assign(state, { flow_id, flow_version, status });
    if (String(status).startsWith("waiting_") && event.step_id) {
      state.current_state = event.step_id; // no turn may end here: a timer's run
    }
    if (hasEnded(status)) {
      state.current_state = "idle";
      this.#pending.clear();
      return;
    }
    // a question that a message answers ends without an event; what the flow waits for now is told
    for (const [id, { kind }] of this.#pending) {
      if (kind === "input") {
        this.#pending.delete(id);
      }
    }
    for (const raw of items(data.pending)) {
      this.#addPending(raw);
    }
  }

  #reset(state: Record<string, unknown>): void {
    const nothing = { slots: {}, variables: {}, completed_steps: [], flow_id: null, flow_version: null };
    Object.assign(state, nothing, { status: "idle", current_state: "idle" });
    this.#pending.clear();
    this.#messages.clear();
    this.#before = null; // history begins after a reset
    this.#list = null;
  }

  #addPending(raw: Raw): void {
    this.#pending.set(raw.pending_id, toPending(raw));
  }

  #addMessage(raw: Raw): void {
    this.#messages.set(raw.message_id, toMessage(raw));
    this.#list = null;
    if (this.#messages.size > MAX_MESSAGES) {
      const entries = this.#messages.entries();
      const [oldest] = entries.next().value as [string, Message];
      const [, next] = entries.next().value as [string, Message];
      this.#messages.delete(oldest);
      this.#before = next.offset ?? this.#before;
    }
  }
}

/** Return `old` with what `changed` names; a null clears. */
function merged(old: unknown, changed: unknown): JsonObject {
  const all = { ...mapping(old), ...mapping(changed) };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
}
