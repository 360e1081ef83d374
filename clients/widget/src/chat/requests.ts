// Open requests to a person: questions as a form, a decision as a card with accept and reject.

import type { Pending, Question } from "parley-client";
import type { Announcer } from "./announcer.js";
import { explained, make, shown } from "./dom.js";
import { filled, type Words } from "./words.js";

const INPUT_TYPES: Record<string, string> = {
  date: "date",
  time: "time",
  datetime: "datetime-local",
  email: "email",
  phone: "tel",
  url: "url",
};
const COMPLETE: Record<string, string> = { email: "email", phone: "tel", url: "url" };
const MAX_RADIOS = 6;
const COMMENT = "comment";

/** Name the control of a question or slot. A bare "remove" or "elements" would take the place of the form's own. */
const named = (name: string) => `value.${name}`;

type Control = HTMLInputElement | HTMLSelectElement | HTMLButtonElement;
type Slots = Readonly<Record<string, unknown>>;

/** What a person decided: an answer to questions, or an acceptance or rejection. */
export type Decision =
  | { pending: Pending; answers: Record<string, unknown> }
  | { pending: Pending; accepted: boolean; comment: string | null; edits: Record<string, unknown> };

interface Card {
  element: HTMLFormElement;
  json: string;
  pending: Pending;
  /** The focus was in it when its controls were disabled, which takes the focus away. */
  focused?: boolean;
}

/** What of an error of the wire a form needs. */
interface Wrong {
  message: string;
  suggestion?: string | null;
  field?: string | null;
  details?: unknown;
}

export class Requests {
  readonly element: HTMLElement;
  readonly #cards = new Map<string, Card>();
  readonly #timer: ReturnType<typeof setInterval>;
  #slots: Slots = {};
  #fields = 0;

  /**
   * @param decide is told what a person decided.
   * @param lost is called when the focus was in what has gone.
   */
  constructor(
    private readonly words: Words,
    private readonly locale: string,
    private readonly announcer: Announcer,
    private readonly decide: (decision: Decision) => void,
    private readonly lost: () => void,
  ) {
    this.element = make("div", {
      className: "requests",
      hidden: true,
      attributes: { role: "region", "aria-label": words.requests },
    });
    this.#timer = setInterval(() => this.#showTimes(), 1_000);
  }

  /** Let go of everything. */
  end(): void {
    clearInterval(this.#timer);
  }

  /** Show these and no others. What is typed already stays, also when a request changes. */
  show(requests: readonly Pending[], slots: Slots): void {
    this.#slots = slots;
    const open = new Set(requests.map(({ pending_id: id }) => id));
    for (const [id, card] of this.#cards) if (!open.has(id)) this.#remove(id, card);
    for (const pending of requests) this.#update(pending);
    this.element.hidden = this.#cards.size === 0;
    this.#showTimes();
  }

  #update(pending: Pending): void {
    const json = JSON.stringify(pending);
    const known = this.#cards.get(pending.pending_id);
    if (known?.json === json) return;
    const element = this.#card(pending);
    if (known) {
      restore(element, known.element);
      known.element.replaceWith(element);
    } else {
      this.element.append(element);
      this.announcer.say(filled(this.words.request, { title: this.#titleOf(pending) }));
    }
    this.#cards.set(pending.pending_id, { element, json, pending });
  }

  /** A decision is on its way, or was refused. */
  busy(id: string, busy: boolean, error: Wrong | null = null): void {
    const card = this.#cards.get(id);
    if (!card) return;
    if (busy) card.focused = hasFocus(card.element);
    for (const control of card.element.elements) (control as Control).disabled = busy;
    const trouble = card.element.querySelector(".trouble") as HTMLElement;
    trouble.hidden = error === null;
    trouble.textContent = error === null ? "" : explained(error);
    if (error === null) return;
    const missing = (error.details as { missing?: string[] } | null)?.missing?.[0];
    const name = named(missing ?? (error.field ?? "").replace(/^(answers|edits)\./, ""));
    const wrong = [...card.element.elements].find((control) => (control as Control).name === name) as
      | HTMLElement
      | undefined;
    (wrong ?? (card.focused ? card.element.querySelector<HTMLElement>("button") : null))?.focus();
  }

  #remove(id: string, card: Card): void {
    const focused = card.focused || hasFocus(card.element);
    card.element.remove();
    this.#cards.delete(id);
    if (focused) this.lost();
  }

  #titleOf({ title, kind }: Pending): string {
    return title ?? (kind === "acceptance" ? this.words.decision : this.words.questions);
  }

  #card(pending: Pending): HTMLFormElement {
    const decision = pending.kind === "acceptance";
    const id = `request-${pending.pending_id}`;
    const card = make("form", {
      className: "request",
      noValidate: true,
      part: "card request",
      attributes: { "aria-labelledby": id },
    });
    card.append(make("h3", { id, dir: "auto" }, this.#titleOf(pending)));
    if (decision && pending.prompt) card.append(make("p", { dir: "auto" }, pending.prompt));
    if (pending.deadline) card.append(make("p", { className: "hint deadline" }));
    card.append(
      ...(decision ? this.#decision(pending) : pending.questions.map((each) => this.#question(each))),
    );
    card.append(make("p", { className: "trouble", hidden: true, attributes: { role: "alert" } }));
    card.append(
      make(
        "p",
        { className: "row" },
        ...(decision ? this.#choices() : [make("button", { type: "submit" }, this.words.answer)]),
      ),
    );
    card.onsubmit = (event) => {
      event.preventDefault();
      const rejected = (event.submitter as HTMLButtonElement | null)?.value === "reject";
      this.decide(
        decision
          ? decided(pending, card, !rejected, this.#slots)
          : { pending, answers: answered(pending, card) },
      );
    };
    return card;
  }

  #choices(): HTMLElement[] {
    return [
      make("button", { type: "submit", value: "accept" }, this.words.accept),
      make("button", { type: "submit", value: "reject", className: "plain" }, this.words.reject),
    ];
  }

  #decision(pending: Pending): HTMLElement[] {
    const edits = (pending.editable ?? []).map((path) => {
      const name = path.replace(/^slots\./, "");
      return this.#field(
        named(name),
        name,
        make("input", { type: "text", value: shown(this.#slots[name] ?? "") }),
      );
    });
    const quorum = Number(pending.by?.quorum ?? 1);
    const votes = pending.votes?.length
      ? [make("p", { className: "hint" }, filled(this.words.votes, { n: pending.votes.length, quorum }))]
      : [];
    const comment = make("input", { type: "text", autocomplete: "off" });
    return [
      ...edits,
      ...votes,
      this.#field(COMMENT, this.words.comment, comment, ` (${this.words.optional})`),
    ];
  }

  /** Put a label to a control. */
  #field(name: string, text: string, control: HTMLInputElement | HTMLSelectElement, hint = ""): HTMLElement {
    control.name = name;
    control.id = `field-${++this.#fields}`;
    control.dir = "auto";
    const label = make(
      "label",
      { htmlFor: control.id, dir: "auto" },
      text,
      make("span", { className: "hint" }, hint),
    );
    return make("p", { className: "field" }, label, control);
  }

  #question({ id, text, type, options, required }: Question): HTMLElement {
    const hint = required ? "" : ` (${this.words.optional})`;
    const { yes, no } = this.words;
    const choices: [string, string][] =
      type === "boolean"
        ? [
            ["true", yes],
            ["false", no],
          ]
        : options.map((option) => [option, option]);
    if (choices.length > MAX_RADIOS) {
      const select = make("select", { required }, make("option", { value: "" }, "…"));
      select.append(...choices.map(([value, title]) => make("option", { value }, title)));
      return this.#field(named(id), text, select, hint);
    }
    if (choices.length > 0) {
      const group = make(
        "fieldset",
        {},
        make("legend", { dir: "auto" }, text, make("span", { className: "hint" }, hint)),
      );
      for (const [value, title] of choices) {
        const radio = make("input", { type: "radio", name: named(id), value, required });
        group.append(make("label", { className: "choice", dir: "auto" }, radio, title));
      }
      return group;
    }
    const numeric = type === "number" || type === "integer";
    const input = make("input", {
      type: INPUT_TYPES[type] ?? "text",
      required,
      inputMode: numeric ? "decimal" : "",
      autocomplete: COMPLETE[type] ?? "off",
    });
    if (type === "list") input.placeholder = this.words.list;
    return this.#field(named(id), text, input, hint);
  }

  #showTimes(): void {
    for (const { element, pending } of this.#cards.values()) {
      const { deadline } = pending;
      if (!deadline) continue;
      const until = new Date(deadline);
      const time = Number.isNaN(until.getTime())
        ? deadline
        : until.toLocaleString(this.locale, { dateStyle: "medium", timeStyle: "short" });
      const words = until.getTime() <= Date.now() ? this.words.over : filled(this.words.deadline, { time });
      const place = element.querySelector(".deadline") as HTMLElement;
      if (place.textContent !== words) place.textContent = words;
    }
  }
}

function hasFocus(card: HTMLElement): boolean {
  return card.contains((card.getRootNode() as ShadowRoot).activeElement);
}

function answered(pending: Pending, card: HTMLFormElement): Record<string, unknown> {
  const given = new FormData(card);
  const answers: Record<string, unknown> = {};
  for (const { id, type } of pending.questions) {
    const value = given.get(named(id));
    if (value === null || value === "") continue;
    answers[id] = type === "boolean" ? value === "true" : value;
  }
  return answers;
}

function decided(pending: Pending, card: HTMLFormElement, accepted: boolean, slots: Slots): Decision {
  const given = new FormData(card);
  const edits: Record<string, unknown> = {};
  for (const path of accepted ? (pending.editable ?? []) : []) {
    const name = path.replace(/^slots\./, "");
    const value = String(given.get(named(name)) ?? "");
    if (value !== shown(slots[name] ?? "")) edits[name] = alike(value, slots[name]);
  }
  return { pending, accepted, comment: String(given.get(COMMENT) ?? "") || null, edits };
}

/** Return a text as a value of the kind that `before` is, if it can be one: `35` for a number, a list for a list. */
function alike(text: string, before: unknown): unknown {
  if (before === undefined || before === null || typeof before === "string") return text;
  try {
    return JSON.parse(text);
  } catch {
    return text; // the server says what is wrong with it
  }
}

/** Keep what was typed in a card that is made anew, and where the cursor was. */
function restore(card: HTMLFormElement, old: HTMLFormElement): void {
  const focused = (old.getRootNode() as ShadowRoot).activeElement;
  for (const each of old.elements) {
    const control = each as HTMLInputElement;
    const radio = control.type === "radio";
    const same = [...card.elements].find(
      (other) =>
        (other as HTMLInputElement).name === control.name &&
        (!radio || (other as HTMLInputElement).value === control.value),
    ) as HTMLInputElement | undefined;
    if (!same || !control.name) continue;
    if (radio) same.checked = control.checked;
    else if (control.value !== control.defaultValue) same.value = control.value;
    if (control === focused) requestAnimationFrame(() => same.focus());
  }
}
