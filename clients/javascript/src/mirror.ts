/**
 * What a client knows of one conversation: the server's snapshot with the later events folded in.
 *
 * @module
 */
import {
  given,
  hasEnded,
  items,
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

export type Mirror = ReturnType<typeof createMirror>;

/** Fold snapshots and events of one conversation, without I/O. */
export function createMirror(conversation_id: string) {
  let epoch: string | null = null;
  let offset = 0;
  let state: Record<string, unknown> | null = null;
  const messages = new Map<string, Message>();
  const pending = new Map<string, Pending>();
  let before: number | null = null;
  let list: readonly Message[] | null = null;

  /** Know nothing. */
  function clear(): void {
    epoch = state = before = list = null;
    offset = 0;
    messages.clear();
    pending.clear();
  }

  function addPending(raw: Raw): void {
    pending.set(raw.pending_id, toPending(raw));
  }

  function addMessage(raw: Raw): void {
    messages.set(raw.message_id, toMessage(raw));
    list = null;
    if (messages.size > MAX_MESSAGES) {
      const [oldest, next] = messages as Iterable<unknown> as [[string, Message], [string, Message]];
      messages.delete(oldest[0]);
      before = next[1].offset ?? before;
    }
  }

  function reset(state: Record<string, unknown>): void {
    Object.assign(state, {
      slots: {},
      variables: {},
      completed_steps: [],
      flow_id: null,
      flow_version: null,
      status: "idle",
      current_state: "idle",
    });
    pending.clear();
    messages.clear();
    before = list = null; // history begins after a reset
  }

  function foldExecution(state: Record<string, unknown>, event: Raw, data: Raw): void {
    const { status, flow_id = null, flow_version = null } = data;
    if (event.type === "execution.started") {
      state.variables = {};
      state.completed_steps = [];
    } else if ((state.flow_id ?? null) !== flow_id || (state.flow_version ?? null) !== flow_version) {
      state.variables = {}; // it went over to another flow
    }
    Object.assign(state, { flow_id, flow_version, status });
    if (/^waiting_/.test(status) && event.step_id) {
      state.current_state = event.step_id; // no turn may end here: a timer's run
    }
    if (hasEnded(status)) {
      state.current_state = "idle";
      pending.clear();
      return;
    }
    // a question that a message answers ends without an event; what the flow waits for now is told
    for (const [id, { kind }] of pending) {
      if (kind === "input") {
        pending.delete(id);
      }
    }
    items(data.pending).forEach(addPending);
  }

  function fold(type: string, event: Raw, data: Raw): void {
    state ??= { conversation_id, created_at: event.time };
    state.last_activity = event.time;
    switch (type) {
      case "message.received":
      case "message.completed":
        state.message_count = ((state.message_count as number) || 0) + 1;
        addMessage(data);
        break;
      case "message.retracted":
        messages.delete(data.message_id);
        list = null;
        break;
      case "turn.completed":
      case "turn.failed":
        state.current_state = data.current_state;
        break;
      case "slots.updated":
        state.slots = given({ ...mapping(state.slots), ...mapping(data.slots) }); // null clears
        break;
      case "variables.updated":
        state.variables = given({ ...mapping(state.variables), ...mapping(data.variables) });
        break;
      case "clarification.requested":
      case "acceptance.requested":
        addPending(data);
        break;
      case "pending.resolved":
      case "pending.expired":
        pending.delete(data.pending_id);
        break;
      case "conversation.created":
        state.user_id = data.user_id;
        state.channel = data.channel;
        break;
      case "conversation.reset":
        reset(state);
        break;
      default:
        if (type.startsWith("execution.")) {
          foldExecution(state, event, data);
        }
    }
  }

  /** Return the newest messages, oldest first; the same array until one comes or goes. */
  const allMessages = () => (list ??= [...messages.values()]);
  /** Return the open requests to a person, oldest first. */
  const allPending = () => [...pending.values()];

  return {
    clear,
    messages: allMessages,
    pending: allPending,

    /** Return all that is known. */
    snapshot(partials: Readonly<Record<string, string>>): Snapshot {
      const place = { epoch, offset };
      const pending = allPending();
      return {
        conversation_id,
        ...place,
        state: state && toState({ ...state, ...place, pending }),
        messages: allMessages(),
        before,
        pending,
        partials,
      };
    },

    /** Take a `snapshot` frame. */
    replace(frame: Raw): void {
      clear();
      epoch = frame.epoch ?? null;
      offset = frame.offset;
      state = frame.state && { ...frame.state };
      before = frame.before ?? null;
      items(frame.messages).forEach(addMessage);
      items(frame.pending).forEach(addPending);
    },

    /** Fold the events of an `events` frame, which the session has found to be next. */
    apply(to_epoch: string, to: number, events: readonly Raw[]): void {
      epoch = to_epoch;
      offset = to;
      for (const event of events) {
        fold(String(event.type), event, mapping(event.data));
      }
    },
  };
}
