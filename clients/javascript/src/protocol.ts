/**
 * What this client knows of the wire besides its state machine: names, limits, close codes, JSON.
 *
 * @module
 */
import { InvalidFrame } from "./errors.js";
import type { Raw } from "./records.js";

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
  const { href, protocol } = new URL(url);
  if (!/^(http|ws)s?:$/.test(protocol)) {
    throw new TypeError(`the URL must look like http://host:port, not ${url}`);
  }
  const [, server] = /^(?:http|ws)(s?:\/\/[^/?#@]+(?=\/)[^?#]*?)\/*(\/v1\/ws)?\/*$/.exec(href) ?? [];
  if (!server) {
    throw new TypeError("the URL must hold no credentials, query or fragment; give the token as `token`");
  }
  return `ws${server}/v1/ws`;
}

/** Return the address of the REST side, `http(s)://.../v1`, beside a `socketUrl`. */
export const restUrl = (socket: string): string => socket.replace("ws", "http").slice(0, -3);

/**
 * Return the JSON text of a frame.
 *
 * What is refused here the server would refuse as a whole frame, which it could not even answer by id.
 *
 * @throws InvalidFrame a number beyond ±2**53, a lone surrogate, deeper than 32, or what JSON does not have.
 */
export function encode(frame: Raw): string {
  check(frame, "", 1);
  return JSON.stringify(frame);
}

function check(value: unknown, field: string, depth: number): void {
  const wrong =
    typeof value === "number"
      ? !(Math.abs(value) <= 2 ** 53) && "holds a number beyond ±2**53; send it as text"
      : typeof value === "string"
        ? /\p{Cs}/u.test(value) && "holds a lone surrogate, which UTF-8 cannot carry"
        : depth > MAX_DEPTH && typeof value === "object" && value
          ? `is nested deeper than ${MAX_DEPTH} levels`
          : typeof value === "bigint" && "holds a bigint; send it as text";
  if (wrong) {
    throw new InvalidFrame(`${field} ${wrong}`, { field });
  }
  if (typeof value === "object" && value !== null) {
    for (const [name, item] of Object.entries(value)) {
      check(item, field ? `${field}.${name}` : name, depth + 1);
    }
  }
}

/** Return what is given, without what is null or undefined. */
export const given = (fields: Raw): Record<string, unknown> =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null));

/** Return a frame's text with its token struck out, for logs and recorders. */
export const withoutToken = (text: string): string => {
  const hidden = (name: string, value: unknown) => (name === "token" ? "***" : value);
  return JSON.stringify(JSON.parse(text), hidden);
};
