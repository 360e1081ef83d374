/**
 * What `vectors.test.ts` asks of Vitest and of Node, for a page: there, `tests/integration/test_javascript.py`
 * bundles it with this file in place of both. The assertions are Vitest's own.
 */
import { JestChaiExpect } from "@vitest/expect";
import * as chai from "chai";

chai.use(JestChaiExpect);
export const { expect } = chai;

type Case = { name: string };

/** Each case that was run, and why it failed. */
const ran: { name: string; failure: string | null }[] = [];
Object.assign(globalThis, { ran });

function run(name: string, body: () => void): void {
  let failure = null;
  try {
    body();
  } catch (error) {
    failure = String(error);
  }
  ran.push({ name, failure });
}

export const it = {
  each:
    <T>(cases: T[]) =>
    (title: string, body: (one: T) => void) => {
      for (const one of cases) {
        run(title.replace("$name", (one as Case).name), () => body(one));
      }
    },
};

export const describe = {
  skipIf: (skipped: boolean) => (_title: string, body: () => void) => skipped || body(),
};

/** Reads a file of the site that the page is of. */
export function readFileSync(url: URL): string {
  const request = new XMLHttpRequest();
  request.open("GET", url, false);
  request.send();
  return request.responseText;
}

export const existsSync = (): boolean => true;
