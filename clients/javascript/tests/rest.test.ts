/** What goes over REST, from a server of this test's on a real socket: tokens, and those who leave. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, it } from "vitest";
import { waiter } from "../src/clock.js";
import { type InboxEvent, Parley, type ParleyOptions, Timeout, TokenExpired } from "../src/index.js";
import { VirtualClock } from "./fakes.js";

let server: Server;
let replies: [status: number, body: string][];
let tokens: (string | undefined)[];
let clock: VirtualClock;

const connect = (options: ParleyOptions = {}) => {
  const { port } = server.address() as AddressInfo;
  return new Parley(`http://127.0.0.1:${port}`, { token: "secret", clock, random: () => 0, ...options });
};
const told = (...events: [string, object][]): [number, string] => [
  200,
  events.map(([name, data]) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`).join(""),
];
const expired: [number, string] = [401, JSON.stringify({ error: { code: "token_expired", message: "no" } })];
/** Let the clock go on for as long as this is awaited. */
async function passing<T>(promise: Promise<T>): Promise<T> {
  let going = true;
  const done = promise.finally(() => {
    going = false;
  });
  done.catch(() => {}); // it is told to who awaits this
  while (going) {
    await clock.advance(10);
  }
  return done;
}

beforeEach(async () => {
  replies = [];
  tokens = [];
  clock = new VirtualClock();
  server = createServer((request, response) => {
    tokens.push(request.headers.authorization?.replace("Bearer ", ""));
    const [status, body] = replies.shift() ?? [404, "{}"];
    response.writeHead(status).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

it("tells of the inbox for longer than a token lasts", async () => {
  const opened: [string, object] = ["opened", { wait_id: "a", execution_id: "x" }];
  replies = [told(["ready", {}]), expired, told(opened, ["ready", {}]), expired, expired];
  let made = 0;
  const inbox = connect({ token: () => `${++made}` }).inboxEvents();
  const found: InboxEvent[] = [];
  const read = async () => {
    for await (const event of inbox) {
      found.push(event);
    }
  };
  await expect(passing(read())).rejects.toBeInstanceOf(TokenExpired);
  expect(found.map(({ type }) => type)).toEqual(["ready", "opened"]);
  expect(tokens).toEqual(["1", "1", "2", "2", "3"]);
});

it("waits no longer for a token than its caller does", async () => {
  const parley = connect({ token: () => new Promise(() => {}) });
  const late = parley.execution("x1").get({ timeoutMs: 100 });
  const outcome = late.catch((error) => error);
  await import("../src/remote.js");
  await clock.advance(101);
  expect(await Promise.race([outcome, clock.advance(0)])).toBeInstanceOf(Timeout);
  const leaving = new AbortController();
  const left = parley.start("f", { signal: leaving.signal }).catch((error) => error);
  await clock.advance(0);
  leaving.abort("gone");
  expect(await Promise.race([left, clock.advance(0)])).toBe("gone");
  expect(tokens).toEqual([]);
});

it("asks for no inbox on behalf of somebody who has left, and pauses for nobody", async () => {
  await expect(
    connect()
      .inboxEvents({ signal: AbortSignal.abort("gone") })
      .next(),
  ).rejects.toBe("gone");
  expect(tokens).toEqual([]);
  replies = [told(["ready", {}])];
  const leaving = new AbortController();
  const pausing = waiter();
  const random = () => {
    pausing.resolve();
    return 1;
  };
  const inbox = connect({ random }).inboxEvents({ signal: leaving.signal });
  await inbox.next();
  const next = inbox.next().catch((error) => error);
  await pausing.promise;
  leaving.abort("gone");
  expect(await Promise.race([next, clock.advance(1)])).toBe("gone");
});
