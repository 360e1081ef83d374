/**
 * What this client knows of the wire besides its state machine: names, limits, close codes, JSON, decisions.
 *
 * @module
 */
import type { DecisionOptions } from "./conversation.js";
import { errorFromWire } from "./errors.js";
import type { JsonObject, Pending, Raw } from "./records.js";

export const SUBPROTOCOL = "parley.v1";
export const CLIENT_NAME = "parley-js";
export const VERSION = "0.1.0";

/** Until `welcome` says otherwise. */
export const PING_INTERVAL_S = 25;
export const SILENCE_GRACE_S = 10;
export const GREETING_MS = 10_000;
export const MAX_FRAME_BYTES = 65_536;
export const MAX_DEPTH = 32;

export const CLOSE_NORMAL = 1000;
export const CLOSE_PROTOCOL_ERROR = 1002;
export const CLOSE_ABNORMAL = 1006;
export const CLOSE_TOKEN_EXPIRED = 4002;
export const CLOSE_NO_PONG = 4004;
export const CLOSE_STATE_LOST = 4005;

/** Tell whether to reconnect after a close: the range is the policy. */
export const mayReconnect = (code: number): boolean => !/^(100[023789]|4[5-9]..)$/.test(`${code}`);

export const isTurnEnd = (type: unknown): boolean => type === "turn.completed" || type === "turn.failed";

/**
 * Return the WebSocket URL of a server given as `http(s)://` or `ws(s)://`, with or without the path.
 *
 * @throws TypeError another scheme, no host, or credentials, query or fragment in it: tokens never travel in
 *   URLs, which land in logs.
 */
export function socketUrl(url: string | URL): string {
  const { href } = new URL(url);
  const [, server] = /^(?:http|ws)(s?:\/\/[^/?#@]+(?=\/)[^?#]*?)\/*(\/v1\/ws)?\/*$/.exec(href) ?? [];
  if (!server) {
    throw new TypeError(
      "the URL must look like http://host:port, with no credentials, query or fragment; give the token as `token`",
    );
  }
  return `ws${server}/v1/ws`;
}

/** Return the address of the REST side, `http(s)://.../v1`, beside a `socketUrl`. */
export const restUrl = (socket: string): string => `http${socket.slice(2, -3)}`;

/**
 * Return the JSON text of a frame.
 *
 * What is refused here the server would refuse as a whole frame, which it could not even answer by id.
 *
 * @throws InvalidFrame a number beyond ±2**53, a lone surrogate, deeper than 32, or what JSON does not have.
 */
export function encode(frame: Raw): string {
  check(frame);
  return JSON.stringify(frame);
}

function check(value: unknown, ...path: string[]): void {
  const isNested = typeof value === "object" && value !== null;
  const wrong =
    typeof value === "number"
      ? !(Math.abs(value) <= 2 ** 53) && "holds a number beyond ±2**53; send it as text"
      : typeof value === "string"
        ? /\p{Cs}/u.test(value) && "holds a lone surrogate, which UTF-8 cannot carry"
        : isNested
          ? path.length >= MAX_DEPTH && `is nested deeper than ${MAX_DEPTH} levels`
          : typeof value === "bigint" && "holds a bigint; send it as text";
  if (wrong) {
    const field = path.join(".");
    throw errorFromWire({ code: "invalid_frame", message: `${field} ${wrong}`, field });
  }
  if (isNested) {
    for (const [name, item] of Object.entries(value)) {
      check(item, ...path, name);
    }
  }
}

/** Return a frame's text with its token struck out, for logs and recorders. */
export const withoutToken = (text: string): string => {
  const hidden = (name: string, value: unknown) => (name === "token" ? "***" : value);
  return JSON.stringify(JSON.parse(text), hidden);
};

/** Return the fields of a decision about an acceptance request, on the wire and over REST. */
export function decisionBody(pending: string | Pending, accepted: boolean, options: DecisionOptions): Raw {
  const { pending_id, digest: shown } = shownOf(pending);
  const { comment, edits, digest = shown } = options;
  return { pending_id, accepted, comment, edits, digest };
}

/** Return the fields of answers to a clarification, on the wire and over REST. */
export const answersBody = (pending: string | Pending, answers: JsonObject): Raw => ({
  pending_id: shownOf(pending).pending_id,
  answers,
});

const shownOf = (pending: string | Pending): { pending_id: string; digest?: string | null } =>
  typeof pending === "string" ? { pending_id: pending } : pending;
