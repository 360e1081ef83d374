/**
 * Client for Parley, the realtime conversation server (protocol `parley.v1`).
 *
 * `Parley` connects, `parley.conversation` gives a `Conversation`, `parley.start` and `parley.execution` an
 * `ExecutionHandle`. The types of events are in the namespace `events`, those of frames in `wire`; errors and
 * records are exported by themselves.
 *
 * @module
 */
export type { Clock } from "./clock.js";
export type { ConnectionEvent, Token } from "./connection.js";
export {
  type CommandOptions,
  Conversation,
  type ConversationEvents,
  type ConversationOptions,
  type DecisionOptions,
  type SendOptions,
  TurnStream,
  type WaitOptions,
} from "./conversation.js";
export * from "./errors.js";
export type * as events from "./events.js";
export { type AnyEvent, type Event, type InboxEvent, parseEvent } from "./events.js";
export { ExecutionHandle } from "./execution.js";
export { browserOutbox, type KeptCommand, type OutboxStore } from "./outbox.js";
export { type ListOptions, Parley, type ParleyOptions, type StartOptions } from "./parley.js";
export { VERSION } from "./protocol.js";
export type {
  Button,
  Cursor,
  Execution,
  HistoryPage,
  InboxItem,
  JsonObject,
  Message,
  Pending,
  Principal,
  Question,
  Receipt,
  Snapshot,
  State,
  Turn,
} from "./records.js";
export type { SocketClass, SocketLike } from "./sockets.js";
export { Stream } from "./stream.js";
export type * as wire from "./wire.js";
