// Puts the page together: what the session tells is shown, what a person does becomes commands.

import { Connection } from "/page/connection.js";
import { $, announce, explained, save } from "/page/dom.js";
import { logFrame, showState } from "/page/inspector.js";
import { Messages } from "/page/messages.js";
import { Mirror } from "/page/mirror.js";
import { watchFlows } from "/page/problems.js";
import { Requests } from "/page/requests.js";
import { Session } from "/page/session.js";
import * as visitor from "/page/visitor.js";

const MAX_UNACKNOWLEDGED = 20;
const WORDS = {
  connecting: "Connecting …",
  live: "Connected",
  waiting: "Connection lost, trying again …",
  stopped: "Disconnected",
};

const TYPED_MS = 7_000; // who has not said so for this long types no more, whether that was said or lost

class Page {
  #mirror = new Mirror();
  #messages = new Messages((payload) => this.#say(null, payload));
  #requests = new Requests((command) => this.#submit(command), (deadline) => this.#mirror.left(deadline));
  #session = null;
  #connection = null;
  #commands = new Map(); // key -> {command, acked: the offset of its acceptance}
  #typing = false;
  #typist = 0;
  #strange = false;

  /** Enter a conversation: take up what was not acknowledged, and connect. */
  enter(conversationId) {
    this.#connection?.end();
    for (const key of this.#commands.keys()) this.#messages.sent(key);
    this.#commands.clear();
    this.#mirror = new Mirror();
    this.#messages.replace([], []);
    this.#session = new Session(conversationId, {
      hello: {
        client: { name: "parley-page", version: "1" },
        locale: navigator.language,
        timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      },
    });
    const connection = new Connection({
      session: this.#session,
      token: visitor.token,
      tell: (output) => connection === this.#connection && this.#on(output),
      onState: (state) => connection === this.#connection && this.#onState(state),
      onFrame: logFrame,
    });
    this.#connection = connection;
    for (const { command } of visitor.unacknowledged(conversationId)) this.#send(command);
    this.#show();
    connection.start();
  }

  begin() {
    this.enter(visitor.beginConversation());
  }

  /** Begin the present conversation afresh. */
  reset() {
    if (this.#session.cursor[0] !== null) this.#submit({ type: "reset", reason: "manual_reset" });
  }

  earlier() {
    const { before } = this.#mirror;
    if (before === null) return;
    $("earlier").disabled = true;
    this.#connection.perform((session) => session.request("history", { type: "history", before, limit: 50 }));
  }

  /** Download what was said as a test. */
  async record() {
    this.#trouble(null);
    try {
      save(await visitor.recording(this.#session.conversationId), "recorded.yaml");
      announce("The chat is written down as recorded.yaml.");
    } catch (error) {
      this.#trouble(error instanceof visitor.Refused ? error.message : "The server cannot be reached, so nothing was written down.");
    }
  }

  hurry() {
    this.#connection.hurry();
  }

  insist() {
    this.#connection.insist();
  }

  /** Say what stands in the composer. */
  sayWritten() {
    const text = $("say").value.trim();
    if (text && this.#say(text, null)) {
      $("say").value = "";
      grow();
    }
    $("say").focus();
  }

  #say(text, payload) {
    focusComposer();
    return this.#submit({ type: "process", content: { type: "text", text, payload, metadata: {} }, channel: "web" });
  }

  // --- commands ---------------------------------------------------------------------------------

  #submit(body) {
    this.#trouble(null);
    const id = this.#session.conversationId;
    if (visitor.unacknowledged(id).length >= MAX_UNACKNOWLEDGED) {
      this.#trouble("Too much waits for the server already. It leaves as soon as there is a connection.");
      return false;
    }
    const command = { ...body, idempotency_key: visitor.newId() };
    visitor.keep(id, command);
    this.#send(command);
    return true;
  }

  #send(command) {
    const { type, idempotency_key: key, content } = command;
    this.#commands.set(key, { command, acked: null });
    if (type === "process") this.#messages.send(key, content.text ?? this.#messages.titleOf(content.payload));
    if (command.pending_id) this.#requests.busy(command.pending_id, true);
    this.#connection.perform((session) => session.submit(command));
    this.#show();
  }

  #onAccepted({ key, ack }) {
    visitor.acknowledged(key);
    const entry = this.#commands.get(key);
    // a queued message comes when its turn begins; another one lies at or below the accepting commit's offset
    if (entry && ack.status !== "queued") entry.acked = ack.offset;
  }

  #onSettle({ key, outcome, error }) {
    visitor.acknowledged(key);
    const { command } = this.#commands.get(key) ?? {};
    this.#commands.delete(key);
    this.#messages.sent(key);
    if (!command) return;
    if (outcome === "failed" && error) this.#messages.note(`That did not work: ${explained(error)}`);
    if (command.pending_id) this.#requests.busy(command.pending_id, false, outcome === "refused" ? error : null);
    if (outcome !== "refused") return;
    if (!command.pending_id || !this.#mirror.pending.has(command.pending_id)) this.#trouble(explained(error));
    const text = command.content?.text;
    if (text && $("say").value === "") $("say").value = text; // to be mended and sent again
  }

  // --- what the session tells -------------------------------------------------------------------

  #on(output) {
    const { do: what } = output;
    if (what === "dispatch") for (const event of output.events) this.#onEvent(event);
    else if (what === "snapshot") this.#onSnapshot(output.frame);
    else if (what === "delta") this.#messages.piece(output.frame.message_id, output.frame.delta);
    else if (what === "accepted") this.#onAccepted(output);
    else if (what === "settle") this.#onSettle(output);
    else if (what === "answer") this.#onHistory(output);
    else if (what === "typing") this.#onTyping(output.frame.typing === true);
    else if (what === "complaint" || what === "detach") this.#trouble(explained(output.error));
    else if (what === "forget") {
      this.begin();
      this.#messages.note("The conversation is not there any more; this is a new one.");
      return;
    }
    this.#show();
  }

  #onEvent(event) {
    const { type, data, command_id: key } = event;
    this.#mirror.fold(event);
    if (type === "message.received" || type === "message.completed") {
      if (key) this.#messages.sent(key);
      this.#messages.add(data);
      this.#onTyping(false);
    } else if (type === "message.retracted") this.#messages.remove(data.message_id);
    else if (type === "turn.completed" || type === "turn.failed") this.#messages.endWriting();
    else if (type === "conversation.reset") {
      this.#messages.replace([], []);
      this.#messages.note("The conversation begins afresh.");
    } else if (type === "handoff.requested") this.#messages.note("A person is asked to take over.");
    else if (type === "pending.resolved" && !this.#commands.has(key)) this.#messages.note(`${outcome(data)}.`);
    else if (type === "pending.expired") this.#messages.note(`The time is over: ${outcome(data).toLowerCase()}.`);
  }

  #onTyping(typing) {
    clearTimeout(this.#typist);
    this.#typing = typing;
    if (typing) this.#typist = setTimeout(() => this.#quiet(), TYPED_MS);
  }

  #quiet() {
    this.#typing = false;
    this.#show();
  }

  #onSnapshot(frame) {
    this.#mirror.replace(frame);
    this.#messages.replace(frame.messages ?? [], frame.partials ?? []);
  }

  #onHistory({ result, error }) {
    $("earlier").disabled = false;
    if (error !== null) {
      this.#trouble(explained(error));
      return;
    }
    this.#mirror.before = result.before;
    this.#messages.prepend(result.messages);
    announce(`${result.messages.length} earlier messages are shown.`);
  }

  #onState({ state, reason, error }) {
    const code = error?.code;
    const stranger = error?.stranger || code === "unauthorized";
    if (state === "stopped" && stranger && !this.#strange) {
      this.#strange = true; // once; a server that refuses its own fresh token is not asked for ever
      visitor.forgetVisitor();
      this.begin();
      this.#messages.note("The server does not know this browser any more; this is a new conversation.");
      return;
    }
    if (state === "live") {
      this.#strange = false;
      this.#trouble(null);
    } else if (state === "stopped") this.#trouble(error?.suggestion ? explained(error) : reason || "The server ended the connection.");
    const place = $("connection");
    place.dataset.state = state;
    place.querySelector(".words").textContent = WORDS[state];
    $("retry").hidden = state !== "waiting" && state !== "stopped";
    this.#show();
  }

  // --- showing ----------------------------------------------------------------------------------

  #show() {
    const [, offset] = this.#session.cursor;
    for (const [key, { acked }] of this.#commands) if (acked !== null && acked <= offset) this.#messages.sent(key);
    const { state, requests } = this.#mirror;
    $("others").hidden = state.status !== "waiting_acceptance" || requests.some(({ kind }) => kind === "acceptance");
    showState(this.#mirror, this.#session.conversationId, this.#session.cursor);
    this.#requests.show(requests, state.slots ?? {});
    $("working").hidden = !(this.#typing || (this.#session.online && this.#commands.size > 0));
    $("record").disabled = this.#session.cursor[0] === null;
    $("earlier").hidden = this.#mirror.before === null;
    $("empty").hidden = $("log").children.length > 0 || this.#commands.size > 0 || !this.#session.online;
  }

  #trouble(text) {
    $("trouble").hidden = text === null;
    $("trouble").textContent = text ?? "";
  }
}

function outcome({ kind, decided }) {
  if (kind === "clarification") return decided?.answers ? "The questions are answered" : "The questions are closed";
  if (decided?.accepted === true) return "Accepted";
  return decided?.accepted === false ? "Rejected" : "The request is closed";
}

/** Go on writing; on a touch screen that would open the keyboard over what was just said. */
function focusComposer() {
  if (matchMedia("(pointer: fine)").matches) $("say").focus();
}

function grow() {
  const say = $("say");
  say.rows = Math.min(6, say.value.split("\n").length);
}

function inspect(open) {
  document.querySelector("main").classList.toggle("inspecting", open);
  $("inspect").setAttribute("aria-expanded", String(open));
}

const page = new Page();

$("composer").onsubmit = (event) => {
  event.preventDefault();
  page.sayWritten();
};
$("say").oninput = grow;
$("say").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.sayWritten();
};
$("retry").onclick = () => {
  page.insist();
  focusComposer();
};
$("reset").onclick = () => page.reset();
$("new").onclick = () => {
  page.begin();
  focusComposer();
};
$("earlier").onclick = () => page.earlier();
$("record").onclick = () => page.record();
$("inspect").onclick = () => inspect(!document.querySelector("main").classList.contains("inspecting"));
addEventListener("online", () => page.hurry());
addEventListener("visibilitychange", () => document.visibilityState === "visible" && page.hurry());

inspect(matchMedia("(min-width: 60rem)").matches);
page.enter(visitor.conversationId());
watchFlows();
focusComposer();
