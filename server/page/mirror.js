// What is known of one conversation: the server's snapshot with the later events folded in.

const ENDED = new Set(["completed", "failed", "cancelled", "expired"]);

/** Return `old` with what `news` names; a null clears. */
function merged(old, news) {
  return Object.fromEntries(Object.entries({ ...old, ...news }).filter(([, value]) => value !== null));
}

export class Mirror {
  constructor() {
    this.clear();
  }

  /** Know nothing. */
  clear() {
    this.state = { status: "idle", current_state: "idle", flow_id: null, flow_version: null, slots: {}, variables: {} };
    this.pending = new Map();
    this.before = null;
    this.ahead = null;
  }

  /** Take a `snapshot` frame. */
  replace(frame) {
    const { ahead } = this;
    this.clear();
    this.ahead = ahead;
    this.state = { ...this.state, ...frame.state };
    this.before = frame.before;
    for (const pending of frame.pending ?? []) this.pending.set(pending.pending_id, pending);
  }

  /** Take an event that is next. */
  fold({ type, time, data, step_id: step }) {
    const { state } = this;
    this.#hear(time);
    if (type === "turn.completed" || type === "turn.failed") state.current_state = data.current_state;
    else if (type === "slots.updated") state.slots = merged(state.slots, data.slots);
    else if (type === "variables.updated") state.variables = merged(state.variables, data.variables);
    else if (type.startsWith("execution.")) this.#foldExecution(type, data, step);
    else if (type === "clarification.requested" || type === "acceptance.requested") this.pending.set(data.pending_id, data);
    else if (type === "pending.resolved" || type === "pending.expired") this.pending.delete(data.pending_id);
    else if (type === "conversation.reset") {
      const { ahead } = this;
      this.clear();
      this.ahead = ahead;
    }
  }

  /** The open requests that are shown as cards; what a message answers is none. */
  get requests() {
    return [...this.pending.values()].filter(({ kind }) => kind !== "input");
  }

  /** The milliseconds until `deadline` by the server's clock, at least 0. */
  left(deadline) {
    return Math.max(0, Date.parse(deadline) - Date.now() - (this.ahead ?? 0));
  }

  #foldExecution(type, { status, flow_id, flow_version, pending }, step) {
    const goesOver = this.state.flow_id !== flow_id || this.state.flow_version !== flow_version;
    if (type === "execution.started" || goesOver) this.state.variables = {}; // each flow begins with its own
    Object.assign(this.state, { status, flow_id, flow_version });
    if (status.startsWith("waiting_") && step) this.state.current_state = step; // no turn may end here: a timer's run
    if (ENDED.has(status)) {
      this.state.current_state = "idle";
      this.pending.clear();
    }
    // a question that a message answers ends without an event; what the flow waits for now is told
    for (const [id, { kind }] of this.pending) if (kind === "input") this.pending.delete(id);
    for (const open of pending ?? []) this.pending.set(open.pending_id, open);
  }

  /** An event of this time has come just now. One that comes late says less than one that does not. */
  #hear(time) {
    const ahead = Date.parse(time) - Date.now();
    if (!Number.isNaN(ahead)) this.ahead = this.ahead === null ? ahead : Math.max(this.ahead, ahead);
  }
}
