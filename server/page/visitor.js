// What outlives a reload: who this browser is, which conversation it is in, and what has not been acknowledged.

const NAME = "parley.";
const SPARE_MS = 60_000; // a token that ends this soon is renewed first
const memory = new Map(); // where a browser keeps nothing

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(NAME + name));
  } catch {
    return memory.get(name) ?? null;
  }
}

function write(name, value) {
  memory.set(name, value);
  try {
    localStorage.setItem(NAME + name, JSON.stringify(value));
  } catch {
    // kept for as long as this page lives
  }
}

function drop(name) {
  memory.delete(name);
  try {
    localStorage.removeItem(NAME + name);
  } catch {
    // it was never there
  }
}

/** 128 random bits in hexadecimal digits. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The server will give no token. `final`: nor later; `stranger`: it does not know this browser any more. */
export class Refused extends Error {
  constructor(error, { final = false, stranger = false } = {}) {
    super([error.message, error.suggestion].filter(Boolean).join(" "));
    Object.assign(this, { final, stranger });
  }
}

/** Return a token: the one that is kept, or a fresh one of the same visitor. Two tabs make one visitor. */
export function token(fresh) {
  const used = read("visitor")?.token;
  const get = () => current(fresh, used);
  return navigator.locks ? navigator.locks.request("parley.visitor", get) : get();
}

async function current(fresh, used) {
  const known = read("visitor");
  const renewed = known !== null && known.token !== used; // by another tab, just now
  const lasts = known !== null && known.expires_at - Date.now() > SPARE_MS;
  if (lasts && (!fresh || renewed)) return known.token;
  const response = await fetch("/v1/visitors", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(known === null ? {} : { token: known.token }),
  });
  const body = await response.json();
  if (response.ok) {
    write("visitor", { token: body.token, expires_at: Date.now() + body.expires_in * 1000 });
    return body.token;
  }
  const stranger = response.status === 401 && known !== null;
  throw new Refused(body.error, { final: stranger || (response.status < 500 && !body.error.temporary), stranger });
}

/** Ask the server for a conversation written down as a test file. Throws Refused. */
export async function recording(conversation) {
  let response;
  for (const fresh of [false, true]) {
    const authorization = `Bearer ${await token(fresh)}`;
    response = await fetch(`/v1/conversations/${encodeURIComponent(conversation)}/recording`, { headers: { authorization } });
    if (response.status !== 401) break;
  }
  if (!response.ok) throw new Refused((await response.json()).error);
  return response.blob();
}

/** Forget who this browser is. */
export function forgetVisitor() {
  drop("visitor");
}

/** The id of the conversation that this browser is in. */
export function conversationId() {
  return read("conversation") ?? beginConversation();
}

/** Make an id of a new conversation, and forget what was on its way to the old one. */
export function beginConversation() {
  for (const { key } of unacknowledged()) acknowledged(key);
  const id = newId();
  write("conversation", id);
  return id;
}

/** Keep a command until it is acknowledged. One entry each, so that two tabs do not overwrite each other's. */
export function keep(conversation, command) {
  write(`outbox.${command.idempotency_key}`, { conversation, command, at: Date.now() });
}

export function acknowledged(key) {
  drop(`outbox.${key}`);
}

/** The commands that were not acknowledged when the page was left, oldest first; of one conversation, or of all. */
export function unacknowledged(conversation = null) {
  const kept = [];
  const prefix = `${NAME}outbox.`;
  try {
    for (const name of Object.keys(localStorage).filter((name) => name.startsWith(prefix))) {
      const entry = read(name.slice(NAME.length));
      if (entry && (conversation === null || entry.conversation === conversation)) kept.push({ key: name.slice(prefix.length), ...entry });
    }
  } catch {
    // a browser that keeps nothing
  }
  return kept.sort((a, b) => a.at - b.at);
}
