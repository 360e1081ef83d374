// The messages: what was said, what is being written, and what has not been sent yet.

import { $, keepingEnd, make, shown, toEnd } from "/page/dom.js";

const WHO = { user: "You", assistant: "Parley", agent: "A person", system: "Note" };

export class Messages {
  #titles = new Map(); // payload -> title, of the buttons that were offered
  #writing = new Map();
  #unsent = new Map();
  #press;

  /** @param press is told of a pressed button's payload. */
  constructor(press) {
    this.#press = press;
  }

  /** Show the messages of a snapshot instead of what is there. A screen reader is not made to read them all. */
  replace(messages, partials) {
    const log = $("log");
    log.setAttribute("aria-live", "off");
    log.replaceChildren(...messages.map((message) => this.#element(message)));
    $("writing").replaceChildren();
    this.#writing.clear();
    for (const { message_id: id, text } of partials) this.piece(id, text);
    this.#enableNewest();
    toEnd();
    setTimeout(() => log.removeAttribute("aria-live"), 100);
  }

  /** Show older messages above, leaving in place what is looked at. */
  prepend(messages) {
    const [scroll, log] = [$("scroll"), $("log")];
    const below = scroll.scrollHeight - scroll.scrollTop;
    log.setAttribute("aria-live", "off");
    log.prepend(...messages.map((message) => this.#element(message)));
    this.#enableNewest();
    scroll.scrollTop = scroll.scrollHeight - below;
    setTimeout(() => log.removeAttribute("aria-live"), 100);
  }

  /** Show a message that came now. */
  add(message) {
    keepingEnd(() => {
      this.#writing.get(message.message_id)?.remove();
      this.#writing.delete(message.message_id);
      $("log").append(this.#element(message));
      this.#enableNewest();
    });
  }

  /** Show a note that no message brought. */
  note(text) {
    keepingEnd(() => $("log").append(make("p", { className: "note", dir: "auto" }, text)));
  }

  remove(id) {
    for (const element of $("log").children) if (element.dataset.id === id) element.remove();
    this.#writing.get(id)?.remove();
    this.#writing.delete(id);
  }

  /** Show a piece of a message that is being written; it is read out only as a whole, when it has come. */
  piece(id, text) {
    keepingEnd(() => {
      if (!this.#writing.has(id)) {
        const element = this.#bubble("assistant", "");
        element.classList.add("partial");
        this.#writing.set(id, element);
        $("writing").append(element);
      }
      this.#writing.get(id).querySelector(".text").append(text);
    });
  }

  /** The turn is over: what was begun and never finished will not be. */
  endWriting() {
    $("writing").replaceChildren();
    this.#writing.clear();
  }

  /** Show what is on its way to the server. */
  send(key, text) {
    const element = this.#bubble("user", text, "sending …");
    this.#unsent.set(key, element);
    $("unsent").append(element);
    toEnd();
  }

  /** It has arrived, or will not; the message itself comes as an event. */
  sent(key) {
    this.#unsent.get(key)?.remove();
    this.#unsent.delete(key);
  }

  /** What is called for a payload: the button's title. */
  titleOf(payload) {
    return this.#titles.get(payload) ?? shown(payload);
  }

  #element(message) {
    const { text, payload, role } = message;
    const words = text ?? (role === "user" ? this.titleOf(payload) : null);
    const element = this.#bubble(role, words ?? "");
    element.dataset.id = message.message_id;
    element.querySelector(".text").hidden = !words;
    if (role !== "user" && payload !== null && payload !== undefined) {
      element.append(make("pre", { dir: "ltr" }, JSON.stringify(payload, null, 2)));
    }
    if (message.buttons?.length) element.append(this.#buttons(message.buttons));
    return element;
  }

  #bubble(role, text, state = "") {
    const known = Object.hasOwn(WHO, role) ? role : "system";
    return make(
      "div",
      { className: `message ${known}` },
      make("span", { className: known === "agent" ? "who" : "unseen" }, `${WHO[known]}: `),
      make("p", { className: "text", dir: "auto" }, text),
      ...(state ? [make("span", { className: "hint" }, state)] : []),
    );
  }

  #buttons(buttons) {
    const row = make("div", { className: "buttons", attributes: { role: "group", "aria-label": "Answers" } });
    for (const { title, payload } of buttons) {
      this.#titles.set(payload, title);
      row.append(make("button", { type: "button", dir: "auto", onclick: () => this.#press(payload) }, title));
    }
    return row;
  }

  /** Only the newest message's buttons can be pressed: those above were answered, or overtaken. */
  #enableNewest() {
    const rows = $("log").querySelectorAll(".message");
    rows.forEach((row, number) => {
      for (const button of row.querySelectorAll("button")) button.disabled = number !== rows.length - 1;
    });
  }
}
