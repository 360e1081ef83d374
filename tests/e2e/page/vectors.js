// Runs the golden vectors against the page's session, in the page. Returns what differs, in words.
async ({ cursor, codes, modules }) => {
  const { Session, mayReconnect } = await import(modules);
  const differences = [];

  class Client {
    constructor(given) {
      const cursor = given.epoch === null ? null : [given.epoch, given.cursor];
      this.session = new Session("c1", { cursor });
      this.now = 1_000_000;
      this.sent = {};
      const waiting = [given.in_flight, ...(given.queued ?? [])].filter((key) => key);
      const accepted = given.accepted ?? [];
      const connected = given.connected ?? true;
      this.begin();
      if (connected || accepted.length || given.in_flight) {
        this.perform(this.session.opened("token", this.now));
        const [epoch, offset] = this.session.cursor;
        this.receive({ type: "welcome", id: "$hello", conversation_id: "c1", ping_interval: 25, epoch, offset, recovered: true });
        for (const key of accepted) {
          this.say(key);
          this.receive({ type: "ack", id: `$command:${key}`, duplicate: false, command_id: key, status: "running", offset: 1, result: null });
        }
      }
      for (const key of waiting) this.say(key);
      if (!connected) this.perform(this.session.closed(1006, ""));
      this.begin();
    }
    begin() {
      this.actions = [];
      this.dispatched = [];
    }
    say(key) {
      this.perform(this.session.submit({ type: "process", idempotency_key: key, content: { type: "text", text: "hi" } }));
    }
    receive(frame) {
      let text = JSON.stringify(frame);
      for (const [name, id] of Object.entries(this.sent)) text = text.replaceAll(JSON.stringify(name), JSON.stringify(id));
      this.perform(this.session.receive(text, this.now));
    }
    step(step) {
      this.begin();
      if ("receive" in step) this.receive(step.receive);
      else if ("open" in step) this.perform(this.session.opened("token", this.now));
      else if ("close" in step) this.perform(this.session.closed(step.close, ""));
      else if ("send" in step) this.say(step.send);
      else if ("silence_ms" in step) this.perform(this.session.tick((this.now += step.silence_ms)));
      else throw new Error(`unknown input ${Object.keys(step)}`);
    }
    perform(outputs) {
      for (const output of outputs) {
        const { do: what } = output;
        if (what === "send") this.note(output.frame);
        else if (what === "dispatch") this.dispatched.push(...output.events.map((event) => event.offset));
        else if (what === "settle") {
          const code = output.error?.code;
          this.did({ do: what, key: output.key, outcome: output.outcome, ...(code ? { code } : {}) });
        } else if (what === "retry") this.did({ do: what, key: output.key, after_ms: output.after_ms });
        else if (what === "delta") this.did({ do: what, message_id: output.frame.message_id, text: output.frame.delta });
        else if (what === "close") {
          this.did({ do: what });
          this.perform(this.session.closed(1006, output.reason));
        } else if (["snapshot", "refresh_token", "reconnect", "stop", "forget"].includes(what)) this.did({ do: what });
      }
    }
    note(frame) {
      const resume = frame.resume ? [frame.resume.epoch, frame.resume.offset] : null;
      if (frame.type === "hello") {
        this.sent.$hello = frame.id;
        this.did({ do: "hello", resume });
      } else if (frame.type === "subscribe") {
        this.sent.$resume = frame.id;
        this.did({ do: "resume", resume });
      } else if (frame.type === "process") {
        this.sent[`$command:${frame.idempotency_key}`] = frame.id;
        this.did({ do: "command", key: frame.idempotency_key });
      } else this.did({ do: frame.type });
    }
    did(action) {
      this.actions.push(action);
    }
  }

  const shape = (value) => JSON.stringify(value, (_, inner) =>
    inner && typeof inner === "object" && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner);
  const byName = (actions) => {
    const grouped = {};
    for (const action of actions) (grouped[action.do] ??= []).push(action);
    return shape(grouped);
  };
  const same = (where, found, wanted) => {
    if (found !== wanted) differences.push(`${where}: ${found}, not ${wanted}`);
  };

  for (const { name, given, steps } of cursor) {
    const client = new Client(given);
    steps.forEach((step, number) => {
      client.step(step);
      const where = `${name}, step ${number}`;
      same(`${where}, dispatched`, shape(client.dispatched), shape(step.expect.dispatched ?? []));
      same(`${where}, actions`, byName(client.actions), byName(step.expect.actions ?? []));
      same(`${where}, cursor`, shape(client.session.cursor), shape(step.expect.cursor));
    });
  }
  for (const { name, code, reconnect, then } of codes) {
    const client = new Client({ epoch: "e1", cursor: 5 });
    client.perform(client.session.closed(code, ""));
    const wanted = [...(then === "refresh_token" ? [{ do: then }] : []), { do: reconnect ? "reconnect" : "stop" }];
    same(`close ${name}`, byName(client.actions), byName(wanted));
    same(`close ${name}, range`, mayReconnect(code), reconnect);
    same(`close ${name}, cursor`, shape(client.session.cursor), shape(then === "drop_cursor" ? [null, 0] : ["e1", 5]));
  }
  return differences;
};
