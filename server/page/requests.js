// Open requests to a person: questions as a form, a decision as a card with accept and reject.

import { $, announce, explained, keepingEnd, make, shown } from "/page/dom.js";

const INPUT_TYPES = { date: "date", time: "time", datetime: "datetime-local", email: "email", phone: "tel", url: "url" };
const MAX_RADIOS = 6;
const COMMENT = "comment";

/** Name the control of a question or slot. A bare "remove" or "elements" would take the place of the form's own. */
const named = (name) => `value.${name}`;

export class Requests {
  #cards = new Map(); // pending id -> {element, json, deadline}
  #decide;
  #left;
  #slots = {};

  /**
   * @param decide is told of a command: acceptance or clarification, complete but for its key.
   * @param left (deadline) => milliseconds.
   */
  constructor(decide, left) {
    [this.#decide, this.#left] = [decide, left];
    setInterval(() => this.#showTimes(), 1_000);
  }

  /** Show these and no others. What is typed already stays, also when a request changes. */
  show(requests, slots) {
    this.#slots = slots;
    keepingEnd(() => this.#update(requests));
  }

  #update(requests) {
    const open = new Set(requests.map(({ pending_id: id }) => id));
    for (const [id, card] of this.#cards) if (!open.has(id)) this.#remove(id, card);
    for (const pending of requests) {
      const json = JSON.stringify(pending);
      const known = this.#cards.get(pending.pending_id);
      if (known?.json === json) continue;
      const element = this.#card(pending);
      if (known) {
        restore(element, known.element);
        known.element.replaceWith(element);
      } else {
        $("requests").append(element);
        announce(`A request is open: ${pending.title ?? pending.prompt ?? "questions"}`);
      }
      this.#cards.set(pending.pending_id, { element, json, deadline: pending.deadline });
    }
    $("requests").hidden = this.#cards.size === 0;
    this.#showTimes();
  }

  /** A decision is on its way, or was refused. */
  busy(id, busy, error = null) {
    const card = this.#cards.get(id);
    if (!card) return;
    for (const control of card.element.elements) control.disabled = busy;
    const missing = error?.details?.missing ?? [];
    const trouble = card.element.querySelector(".trouble");
    keepingEnd(() => {
      trouble.hidden = error === null;
      trouble.textContent = error === null ? "" : explained(error);
    });
    const name = missing[0] ?? (error?.field ?? "").replace(/^(answers|edits)\./, "");
    const wrong = error && name && [...card.element.elements].find((control) => control.name === named(name));
    if (wrong) wrong.focus();
  }

  #remove(id, card) {
    const focused = card.element.contains(document.activeElement);
    card.element.remove();
    this.#cards.delete(id);
    if (focused) $("say").focus();
  }

  #card(pending) {
    const decision = pending.kind === "acceptance";
    const id = `request-${pending.pending_id}`;
    const title = pending.title ?? (decision ? "Your decision" : "Some questions");
    const card = make("form", {
      className: "request",
      noValidate: true,
      attributes: { "aria-labelledby": id, "data-pending": pending.pending_id },
    });
    card.append(make("h3", { id, dir: "auto" }, title));
    if (decision && pending.prompt) card.append(make("p", { dir: "auto" }, pending.prompt));
    if (pending.deadline) card.append(make("p", { className: "hint deadline" }));
    card.append(...(decision ? this.#decision(pending) : pending.questions.map(question)));
    card.append(make("p", { className: "trouble", hidden: true, attributes: { role: "alert" } }));
    card.append(make("p", { className: "row" }, ...(decision ? choices() : [make("button", { type: "submit" }, "Answer")])));
    card.onsubmit = (event) => {
      event.preventDefault();
      const command = decision ? decided(pending, card, event.submitter?.value !== "reject", this.#slots) : answered(pending, card);
      this.#decide(command);
    };
    return card;
  }

  #decision(pending) {
    const slots = pending.editable.map((name) => name.replace(/^slots\./, ""));
    const edits = slots.map((name) => field(named(name), name, make("input", { type: "text", value: shown(this.#slots[name] ?? "") })));
    const votes = pending.votes?.length ? [make("p", { className: "hint" }, `${pending.votes.length} of ${pending.by?.quorum ?? 1} have decided.`)] : [];
    return [...edits, ...votes, field(COMMENT, "Comment", make("input", { type: "text", autocomplete: "off" }), " (optional)")];
  }

  #showTimes() {
    for (const { element, deadline } of this.#cards.values()) {
      if (!deadline) continue;
      const left = this.#left(deadline);
      const words = left > 0 ? `Open for ${duration(left)}, until ${new Date(deadline).toLocaleString()}.` : "The time is over.";
      const place = element.querySelector(".deadline");
      if (place.textContent !== words) place.textContent = words;
    }
  }
}

function choices() {
  return [
    make("button", { type: "submit", value: "accept" }, "Accept"),
    make("button", { type: "submit", value: "reject", className: "plain" }, "Reject"),
  ];
}

let fields = 0;

/** Put a label to a control. */
function field(name, text, control, hint = "") {
  control.name = name;
  control.id = `field-${++fields}`;
  control.dir = "auto";
  const label = make("label", { htmlFor: control.id, dir: "auto" }, text, make("span", { className: "hint" }, hint));
  return make("p", { className: "field" }, label, control);
}

function question({ id, text, type, options, required }) {
  const hint = required ? "" : " (optional)";
  const choices = type === "boolean" ? [["true", "Yes"], ["false", "No"]] : options.map((option) => [option, option]);
  if (choices.length > MAX_RADIOS) {
    const select = make("select", { required }, make("option", { value: "" }, "…"));
    select.append(...choices.map(([value, title]) => make("option", { value }, title)));
    return field(named(id), text, select, hint);
  }
  if (choices.length > 0) {
    const group = make("fieldset", {}, make("legend", { dir: "auto" }, text, make("span", { className: "hint" }, hint)));
    for (const [value, title] of choices) {
      const radio = make("input", { type: "radio", name: named(id), value, required });
      group.append(make("label", { className: "choice", dir: "auto" }, radio, title));
    }
    return group;
  }
  const numeric = type === "number" || type === "integer";
  const input = make("input", { type: INPUT_TYPES[type] ?? "text", required, inputMode: numeric ? "decimal" : "" });
  if (type === "list") input.placeholder = "one, two, three";
  return field(named(id), text, input, hint);
}

function answered(pending, card) {
  const given = new FormData(card);
  const answers = {};
  for (const { id, type } of pending.questions) {
    const value = given.get(named(id));
    if (value === null || value === "") continue;
    answers[id] = type === "boolean" ? value === "true" : value;
  }
  return { type: "clarification", pending_id: pending.pending_id, answers };
}

function decided(pending, card, accepted, slots) {
  const given = new FormData(card);
  const edits = {};
  for (const path of accepted ? pending.editable : []) {
    const name = path.replace(/^slots\./, "");
    const value = given.get(named(name));
    if (value !== shown(slots[name] ?? "")) edits[name] = alike(value, slots[name]);
  }
  const comment = given.get(COMMENT) || null;
  return { type: "acceptance", pending_id: pending.pending_id, accepted, comment, edits, digest: pending.digest };
}

/** Return a text as a value of the kind that `before` is, if it can be one: `35` for a number, a list for a list. */
function alike(text, before) {
  if (before === undefined || before === null || typeof before === "string") return text;
  try {
    return JSON.parse(text);
  } catch {
    return text; // the server says what is wrong with it
  }
}

/** Keep what was typed in a card that is made anew, and where the cursor was. */
function restore(card, old) {
  for (const control of old.elements) {
    const same = [...card.elements].find(
      (other) => other.name === control.name && (control.type !== "radio" || other.value === control.value),
    );
    if (!same || !control.name) continue;
    if (control.type === "radio") same.checked = control.checked;
    else if (control.value !== control.defaultValue) same.value = control.value;
    if (control === document.activeElement) requestAnimationFrame(() => same.focus());
  }
}

function duration(ms) {
  for (const [unit, size] of [["day", 86_400_000], ["hour", 3_600_000], ["minute", 60_000]]) {
    if (ms >= size * 1.5) return `${Math.round(ms / size)} ${unit}s`;
  }
  return `${Math.ceil(ms / 1000)} seconds`;
}
