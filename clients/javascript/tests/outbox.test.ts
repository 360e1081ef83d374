/** Outboxes that survive the page or the process. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { browserOutbox, type OutboxStore, OutboxUnusable, Parley } from "../src/index.js";
import { fileOutbox } from "../src/node.js";
import { FakeServer, MemoryStorage, settled, VirtualClock } from "./fakes.js";

const URL = "ws://example.test/v1/ws";
const command = (key: string, text = key, owner: string | null = null) => ({
  owner,
  frame: {
    type: "process",
    conversation_id: "c1",
    idempotency_key: key,
    content: { type: "text", text },
  },
});
const keysOf = (found: readonly { frame: Readonly<Record<string, unknown>> }[]) =>
  found.map(({ frame }) => frame.idempotency_key);

const folder = () => mkdtempSync(join(tmpdir(), "outbox-"));

describe.each([
  [
    "browserOutbox",
    () => [new MemoryStorage()] as const,
    (place: unknown) => browserOutbox("x", place as Storage),
  ],
  ["fileOutbox", () => [join(folder(), "unsent")] as const, (place: unknown) => fileOutbox(place as string)],
])("%s", (_, makePlace, make) => {
  let open: () => OutboxStore;

  beforeEach(() => {
    const [place] = makePlace();
    open = () => make(place) as OutboxStore;
  });

  it("gives the next one what was not released, oldest first", async () => {
    const first = open();
    first.keep(command("early-01"));
    expect(await first.open(URL)).toEqual([]);
    for (const key of ["key-0001", "key-0002", "key-0003"]) {
      first.keep(command(key));
    }
    first.release("c1", "key-0002");
    first.release("c1", "no-such-key");
    first.close();
    const second = open();
    const left = (await second.open(URL)).filter(({ frame }) => frame.idempotency_key !== "early-01");
    expect(keysOf(left)).toEqual(["key-0001", "key-0003"]);
    second.release("c1", "key-0001");
    second.close();
    const third = open();
    expect(keysOf(await third.open(URL))).toContain("key-0003");
    expect(keysOf(await third.open(URL).catch(() => []))).not.toContain("key-0001");
    third.close();
  });

  it("is what a client sends first, and empties when it is acknowledged", async () => {
    const before = open();
    await before.open(URL);
    before.keep(command("old-0001", "typed before"));
    before.close();
    const server = new FakeServer();
    const options = { WebSocket: server.Socket, clock: new VirtualClock() };
    const parley = new Parley("http://example.test", { ...options, outbox: open() });
    const stream = parley.conversation("c1").send("typed now");
    await settled();
    await settled();
    expect(server.frames.filter(({ type }) => type === "process").map(({ content }) => content.text)).toEqual(
      ["typed before"],
    );
    server.ack(server.last("process"));
    expect(server.last("process").content.text).toBe("typed now");
    server.ack(server.last("process"));
    expect(parley.unacknowledged).toBe(0);
    stream.close();
    await parley.close();
    const after = open();
    expect(await after.open(URL)).toEqual([]);
    after.close();
  });

  it("does not stand in the way of an outcome where it cannot let go", async () => {
    const store: OutboxStore = {
      ...open(),
      release: () => {
        throw new Error("no space left");
      },
    };
    const server = new FakeServer();
    const clock = new VirtualClock();
    const parley = new Parley("http://example.test", { WebSocket: server.Socket, clock, outbox: store });
    const asked = parley.conversation("c1").ask("hi");
    await settled();
    const result = { current_state: "ask", response: { messages: [] }, success: true };
    server.ack(server.last("process"), { status: "completed", result, offset: 0 });
    await clock.advance(1_000);
    expect((await asked).state).toBe("ask");
    await parley.close();
  });

  it("sends nothing of somebody else's", async () => {
    const before = open();
    await before.open(URL);
    before.keep(command("hers-0001", "secret", "t1/eve"));
    before.close();
    const server = new FakeServer();
    const clock = new VirtualClock();
    const parley = new Parley("http://example.test", { WebSocket: server.Socket, clock, outbox: open() });
    const troubles: unknown[] = [];
    parley.on(
      "connection",
      ({ state, error }) => state === "trouble" && troubles.push((error as OutboxUnusable).code),
    );
    parley.conversation("c1").send("mine");
    await clock.advance(1_000);
    await clock.advance(1_000);
    expect(server.frames.filter(({ type }) => type === "process").map(({ content }) => content.text)).toEqual(
      ["mine"],
    );
    expect(troubles).toEqual(["outbox_of_another"]);
    server.ack(server.last("process"));
    await parley.close();
    const after = open();
    expect(keysOf(await after.open(URL))).toEqual(["hers-0001"]);
    after.close();
  });
});

describe("browserOutbox", () => {
  it("leaves alone what is for another server, and drops what is old", async () => {
    const storage = new MemoryStorage();
    const old = { ...command("old-0001"), url: URL };
    storage.setItem("parley-outbox:x:gone:1000:000000001", JSON.stringify(old));
    storage.setItem(
      `parley-outbox:x:gone:${Date.now()}:000000002`,
      JSON.stringify({ ...command("other-01"), url: "ws://o" }),
    );
    storage.setItem(`parley-outbox:x:gone:${Date.now()}:000000003`, "{ damaged");
    expect(await browserOutbox("x", storage)?.open(URL)).toEqual([]);
    expect(storage.length).toBe(1);
  });

  it("gives what was said in one moment in the order in which it was said, as the storage tells it or not", async () => {
    const storage = new MemoryStorage();
    const now = Date.now();
    for (const number of [3, 1, 2]) {
      const entry = JSON.stringify({ ...command(`key-000${number}`), url: URL });
      storage.setItem(`parley-outbox:x:gone:${now}:00000000${number}`, entry);
    }
    const left = (await browserOutbox("x", storage)?.open(URL)) ?? [];
    expect(keysOf(left)).toEqual(["key-0001", "key-0002", "key-0003"]);
  });

  it("sends what is left where the storage has no room for anything more", async () => {
    const storage = new MemoryStorage();
    const before = browserOutbox("x", storage) as OutboxStore;
    await before.open(URL);
    before.keep(command("old-0001", "typed before"));
    before.close();
    const full = new Proxy(storage, {
      get: (target, name) =>
        name === "setItem"
          ? () => {
              throw new DOMException("full", "QuotaExceededError");
            }
          : Reflect.get(target, name),
    });
    const server = new FakeServer();
    const options = { WebSocket: server.Socket, clock: new VirtualClock() };
    const outbox = browserOutbox("x", full);
    const parley = new Parley("http://example.test", { ...options, outbox });
    await parley.connect();
    await settled();
    server.ack(server.last("process"));
    expect(storage.length).toBe(0);
    await parley.close();
  });

  it("is nothing where a page may keep nothing", () => {
    expect(browserOutbox()).toBeUndefined();
  });
});

describe("fileOutbox", () => {
  it("is one client's at a time, and one server's", async () => {
    const path = join(folder(), "unsent");
    const first = fileOutbox(path);
    await first.open(URL);
    await expect(fileOutbox(path).open(URL)).rejects.toMatchObject({ code: "outbox_in_use" });
    first.keep(command("key-0001"));
    first.close();
    await expect(fileOutbox(path).open("ws://other")).rejects.toMatchObject({ code: "outbox_of_another" });
    expect(existsSync(`${path}.lock`)).toBe(false);
    expect(statSync(path).mode & 0o077).toBe(0);
  });

  it("takes over the lock of a process that is no more", async () => {
    const path = join(folder(), "unsent");
    writeFileSync(`${path}.lock`, "999999999");
    const outbox = fileOutbox(path);
    await outbox.open(URL);
    outbox.close();
  });

  it.skipIf(spawnSync("prlimit", ["--version"]).error)(
    "keeps what comes after a moment in which the disk was full",
    async () => {
      const path = join(folder(), "unsent");
      const outbox = fileOutbox(path);
      await outbox.open(URL);
      outbox.keep(command("key-0001"));
      const limit = (bytes: string) =>
        spawnSync("prlimit", ["--pid", `${process.pid}`, `--fsize=${bytes}:unlimited`]);
      limit(`${statSync(path).size + 10}`);
      try {
        expect(() => outbox.keep(command("key-0002"))).toThrow();
        expect(() => outbox.release("c1", "key-0001")).toThrow();
      } finally {
        limit("unlimited");
      }
      outbox.keep(command("key-0003"));
      outbox.keep(command("key-0004"));
      outbox.close();
      const next = fileOutbox(path);
      expect(keysOf(await next.open(URL))).toEqual(["key-0001", "key-0003", "key-0004"]);
      next.close();
    },
  );

  it("forgives a torn last line and nothing else", async () => {
    const path = join(folder(), "unsent");
    const outbox = fileOutbox(path);
    await outbox.open(URL);
    outbox.keep(command("key-0001"));
    outbox.close();
    const whole = readFileSync(path, "utf8");
    writeFileSync(path, `${whole}{"keep":{"fra`);
    const torn = fileOutbox(path);
    expect(keysOf(await torn.open(URL))).toEqual(["key-0001"]);
    torn.close();
    writeFileSync(path, whole.replace('{"outbox"', '"outbox"') + whole);
    await expect(fileOutbox(path).open(URL)).rejects.toBeInstanceOf(OutboxUnusable);
  });
});
