/**
 * The inbox as it changes: one stream of server-sent events after another, told as if it were one.
 *
 * @module
 */
import { fullJitter } from "./clock.js";
import type { Connection } from "./connection.js";
import { ParleyError } from "./errors.js";
import type { InboxEvent } from "./events.js";
import type { InboxItem } from "./records.js";
import { type Rest, sleep, toInboxItem } from "./rest.js";

/** Yield what opens and what is settled, over reconnections; see `Parley.inboxEvents`. */
export async function* watchInbox(
  rest: Rest,
  { clock, random }: Connection,
  signal?: AbortSignal,
): AsyncGenerator<InboxEvent> {
  const known = new Map<string, InboxItem>();
  let tries = 0;
  let ready = false;
  let renewed = false;
  while (true) {
    const again = new Set<string>();
    let renewing = false;
    try {
      for await (const [name, raw] of rest.stream("/inbox", signal)) {
        const id = String(raw.wait_id);
        const item = known.get(id);
        if (name === "opened") {
          again.add(id);
          if (!item) {
            const opened = toInboxItem(raw);
            known.set(id, opened);
            yield { type: "opened", item: opened };
          }
        } else if (name === "settled") {
          again.delete(id);
          if (known.delete(id) && item) {
            yield { type: "settled", item, decided: raw.decided ?? null };
          }
        } else if (name === "ready") {
          tries = 0;
          renewed = false;
          for (const [gone, settled] of [...known].filter(([each]) => !again.has(each))) {
            known.delete(gone);
            yield { type: "settled", item: settled, decided: null };
          }
          if (!ready) {
            ready = true;
            yield { type: "ready", items: known.size };
          }
        }
      }
    } catch (error) {
      renewing = error instanceof ParleyError && !renewed && rest.renew(error);
      if (!(error instanceof ParleyError) || (!renewing && !error.temporary)) {
        throw error;
      }
      renewed ||= renewing;
    }
    tries += 1;
    await sleep(clock, renewing ? 0 : fullJitter(tries, random), signal);
    signal?.throwIfAborted();
  }
}
