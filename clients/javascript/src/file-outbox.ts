/**
 * An outbox in a file, for programs: see `fileOutbox`.
 *
 * @module
 */
import * as fs from "node:fs";
import { OutboxUnusable } from "./errors.js";
import type { KeptCommand, OutboxStore } from "./outbox.js";

/** A line of the file: its head, a command, or the key of one that is done. */
type Line = { outbox: 1; url: string } | { keep: KeptCommand } | { done: [string, string] };

const keyOf = ({ frame }: KeptCommand) => `${frame.conversation_id}\n${frame.idempotency_key}`;

/**
 * Return an outbox in a file: each command is on the disk before it is sent, and the next client that is given
 * the file sends what is left. One client, one server and one user have it at a time; `path.lock` beside it says
 * so, and holds the process's id. There is no token in it, but there is what people said: only its owner may
 * read it.
 */
export function fileOutbox(path: string): OutboxStore {
  const lock = `${path}.lock`;
  let file: number | null = null;
  let kept = new Map<string, KeptCommand>();
  const append = (line: Line) => {
    if (file === null) {
      file = fs.openSync(path, "a", 0o600);
    }
    const { size } = fs.fstatSync(file);
    try {
      fs.appendFileSync(file, `${JSON.stringify(line)}\n`);
      fs.fsyncSync(file);
    } catch (error) {
      fs.ftruncateSync(file, size); // half a line would hide those behind it
      throw error;
    }
  };
  const unusable = (code: string, why: string, cause?: unknown) =>
    new OutboxUnusable(`The outbox ${path} cannot be used: ${why}.`, {
      code,
      cause,
      suggestion: "Give each client a file of its own.",
    });
  const early: KeptCommand[] = [];
  let isOpen = false;
  return {
    async open(url) {
      take(lock, unusable);
      try {
        kept = load(path, url, unusable);
        // written anew, so that what is done does not gather; the old file stays until the new one is whole
        fs.writeFileSync(
          `${path}.new`,
          [{ outbox: 1, url }, ...[...kept.values()].map((keep) => ({ keep }))]
            .map((line) => `${JSON.stringify(line)}\n`)
            .join(""),
          { mode: 0o600, flush: true },
        );
        fs.renameSync(`${path}.new`, path);
        isOpen = true;
        const left = [...kept.values()];
        for (const keep of early.splice(0)) {
          kept.set(keyOf(keep), keep);
          append({ keep });
        }
        return left;
      } catch (error) {
        fs.rmSync(lock, { force: true });
        throw error instanceof OutboxUnusable ? error : unusable("outbox_unwritable", String(error), error);
      }
    },
    keep(keep) {
      if (isOpen) {
        append({ keep });
        kept.set(keyOf(keep), keep);
      } else {
        early.push(keep); // nothing is sent before the file is open
      }
    },
    release(conversationId, key) {
      if (kept.delete(`${conversationId}\n${key}`) && isOpen) {
        append({ done: [conversationId, key] });
      }
    },
    close() {
      if (isOpen) {
        isOpen = false;
        if (file !== null) {
          fs.closeSync(file);
          file = null;
        }
        fs.rmSync(lock, { force: true });
      }
    },
  };
}

type Unusable = (code: string, why: string, cause?: unknown) => OutboxUnusable;

/** Make the lock, or take over that of a process that is no more. */
function take(lock: string, unusable: Unusable): void {
  for (let tries = 0; ; tries += 1) {
    try {
      fs.writeFileSync(lock, String(process.pid), { flag: "wx", mode: 0o600 });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") {
        throw unusable("outbox_unwritable", String(error), error);
      }
    }
    if (tries > 0 || lives(Number(fs.readFileSync(lock, "utf8")))) {
      throw unusable("outbox_in_use", "another client uses it now");
    }
    fs.rmSync(lock, { force: true });
  }
}

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Read what an earlier process left. Its last line may be torn: that one was never sent. */
function load(path: string, url: string, unusable: Unusable): Map<string, KeptCommand> {
  const kept = new Map<string, KeptCommand>();
  const lines = fs.existsSync(path) ? fs.readFileSync(path, "utf8").split("\n") : [];
  for (const [index, text] of lines.entries()) {
    let line: Line;
    try {
      line = JSON.parse(text);
    } catch {
      if (index >= lines.length - 2) {
        break;
      }
      throw unusable("outbox_unreadable", `line ${index + 1} is damaged`);
    }
    if ("keep" in line) {
      kept.set(keyOf(line.keep), line.keep);
    } else if ("done" in line) {
      kept.delete(line.done.join("\n"));
    } else if (line.outbox !== 1) {
      throw unusable("outbox_unreadable", "this is not an outbox, or one of a newer version");
    } else if (line.url !== url) {
      throw unusable("outbox_of_another", `its commands are for ${line.url}`);
    }
  }
  return kept;
}
