// Beside the chat: where the conversation stands, its slots, and every frame that went over the wire.

import { $, make, shown } from "/page/dom.js";

const MAX_FRAMES = 200;

function fill(list, entries) {
  list.replaceChildren(
    ...entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", { dir: "auto" }, value))),
  );
}

/** Show what is known. */
export function showState({ state }, conversationId, [epoch, offset]) {
  const flow = state.flow_id ? `${state.flow_id}, version ${state.flow_version}` : "none";
  fill($("state"), [
    ["Step", state.current_state ?? "idle"],
    ["Status", (state.status ?? "idle").replaceAll("_", " ")],
    ["Flow", flow],
    ["Conversation", conversationId],
    ["Cursor", epoch === null ? "nothing yet" : `offset ${offset} in ${epoch}`],
  ]);
  const values = (record) => Object.entries(record ?? {}).map(([name, value]) => [name, shown(value)]);
  const [slots, variables] = [values(state.slots), values(state.variables)];
  fill($("slots"), slots);
  fill($("variables"), variables);
  $("no-slots").hidden = slots.length > 0;
  $("variables-part").hidden = variables.length === 0;
}

/** Put a frame at the end of the log. Its text is made when somebody looks. */
export function logFrame(way, frame) {
  const list = $("frames");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const arrow = make("span", { className: way, attributes: { "aria-hidden": "true" } }, way === "in" ? "←" : "→");
  const told = make("span", { className: "unseen" }, way === "in" ? "received " : "sent ");
  const summary = make("summary", {}, arrow, told, make("span", {}, frame.type ?? "?"), make("span", { className: "hint" }, gist(frame)));
  const details = make("details", {}, summary);
  details.ontoggle = () => {
    if (details.open && details.children.length === 1) details.append(make("pre", {}, JSON.stringify(frame, null, 2)));
  };
  list.append(make("li", {}, details));
  if (list.children.length > MAX_FRAMES) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function gist(frame) {
  if (frame.type === "events") {
    const kinds = [...new Set(frame.events.map((event) => event.type))];
    return ` ${frame.from}–${frame.to} ${kinds.join(", ")}`;
  }
  if (frame.type === "error") return ` ${frame.error?.code}`;
  if (frame.type === "process") return ` ${shown(frame.content?.text ?? frame.content?.payload ?? "")}`;
  if (frame.type === "message.delta") return ` ${shown(frame.delta)}`;
  return frame.status ? ` ${frame.status}` : "";
}
