// The chat's words in its languages. `{name}` stands for what is put in.

import { languageOf } from "../launcher/words.js";

const ENGLISH = {
  heading: "Chat",
  message: "Message",
  placeholder: "Write a message",
  send: "Send",
  close: "Close the chat",
  restart: "New conversation",
  empty: "How can we help? Write a message to begin.",
  log: "Conversation",
  you: "You",
  assistant: "Assistant",
  agent: "Agent",
  note: "Note",
  answers: "Answers",
  earlier: "Earlier messages",
  newest: "Newest messages",
  sending: "sending …",
  waiting: "will be sent when the connection is back",
  working: "Writing …",
  connecting: "Connecting …",
  live: "Connected",
  lost: "Connection lost, trying again …",
  offline: "You are offline",
  stopped: "Not connected",
  retry: "Try again",
  requests: "Open questions",
  questions: "Some questions",
  decision: "Your decision",
  answer: "Answer",
  accept: "Accept",
  reject: "Reject",
  comment: "Comment",
  optional: "optional",
  yes: "Yes",
  no: "No",
  list: "one, two, three",
  votes: "{n} of {quorum} have decided.",
  deadline: "Open until {time}.",
  over: "The time is over.",
  others: "Somebody else decides now. You will hear from us here.",
  accepted: "Accepted",
  rejected: "Rejected",
  answered: "Answered",
  closed: "Closed",
  handoff: "A person is asked to take over.",
  fresh: "The conversation begins afresh.",
  gone: "The earlier conversation is not there any more. This is a new one.",
  failure: "That did not work: {why}",
  request: "A question is open: {title}",
  shown: "{n} earlier messages are shown.",
};

export type Words = typeof ENGLISH;

const NAMES = Object.keys(ENGLISH);

/** The languages of `others.ts`, as that file exports them. */
export type Others = Record<string, string>;

/** Return the words of a language, those that the page has set in their place. */
export function wordsOf(
  locale: string,
  strings: Partial<Record<string, string>>,
  others: Others = {},
): Words {
  const own = others[languageOf(locale)]?.split("|");
  const words = own ? Object.fromEntries(NAMES.map((name, at) => [name, own[at]])) : ENGLISH;
  return { ...ENGLISH, ...words, ...strings };
}

/** Put values into a text's places. */
export function filled(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (place, name: string) => String(values[name] ?? place));
}
