/** `instanceof` gives the tree that `src/errors.ts` shows, whoever made the error. */
import { describe, expect, it } from "vitest";
import * as client from "../src/index.js";
import {
  errorFromWire,
  MissingAnswers,
  ParleyError,
  PendingExpired,
  PendingResolved,
  Refused,
} from "../src/index.js";

type Kind = (new (message: string, options?: client.ErrorOptions) => ParleyError) & { code: string };

const parentOf = (kind: Kind) => Object.getPrototypeOf(kind) as Kind;
const above = (kind: Kind): Kind[] => (kind === ParleyError ? [kind] : [kind, ...above(parentOf(kind))]);
const kinds = Object.values(client).filter(
  (each): each is Kind & typeof each => typeof each === "function" && each.prototype instanceof Error,
) as Kind[];
const refusals = kinds.filter((kind) => above(kind).includes(Refused));
/** Those that only gather others: no server says their code. */
const families = ["Refused", "Conflict", "Unprocessable", "TryLater", "TurnError"];
const named = (kind: Kind) =>
  Object.entries(client).find(([, each]) => each === (kind as unknown))?.[0] as string;
const isOf = (error: unknown) =>
  kinds
    .filter((kind) => error instanceof kind)
    .map(named)
    .sort();

describe("an error", () => {
  it.each(refusals.map((kind) => [named(kind), kind] as const))(
    "of the wire is a %s and what is above it",
    (name, kind) => {
      const expected = families.includes(name) ? [Refused, ParleyError] : above(kind);
      const error = errorFromWire({ code: kind.code, message: "No." });
      expect(isOf(error)).toEqual(expected.map(named).sort());
      expect([error.name, error.code, error.temporary]).toEqual([name, kind.code, false]);
    },
  );

  it.each(kinds.map((kind) => [named(kind), kind] as const))(
    "that is made as a %s is that and what is above it",
    (name, kind) => {
      const error =
        name === "TurnFailed"
          ? new client.TurnFailed(errorFromWire({ code: "internal" }), turn)
          : new kind("No.");
      expect(isOf(error)).toEqual(above(kind).map(named).sort());
      expect(error.name).toBe(name);
    },
  );

  it("of a code that this client does not know is a Refused and no more", () => {
    expect(isOf(errorFromWire({ code: "new_code" }))).toEqual(["ParleyError", "Refused"]);
  });

  it("of a turn is its cause's code, and none of its classes", () => {
    const error = errorFromWire({ code: "step_failed", message: "No.", field: "a" });
    const failed = new client.TurnFailed(error, turn);
    expect(isOf(failed)).toEqual(["ParleyError", "TurnFailed"]);
    expect(failed).toMatchObject({
      name: "TurnFailed",
      code: "step_failed",
      field: "a",
      error,
      turn,
      cause: error,
    });
  });

  it("is no error of a class that an application derives, unless it made it", () => {
    class Mine extends client.RateLimited {}
    class Family extends client.TryLater {}
    class Coded extends ParleyError {
      static override readonly code = "login_needed";
    }
    const limited = errorFromWire({ code: "rate_limited" });
    expect([limited instanceof Mine, limited instanceof Family]).toEqual([false, false]);
    expect(new Mine("No.")).toBeInstanceOf(Mine);
    expect(isOf(new Mine("No."))).toEqual(["ParleyError", "RateLimited", "Refused", "TryLater"]);
    expect(isOf(new Coded("No."))).toEqual(["ParleyError"]);
    expect(new Coded("No.")).toMatchObject({ name: "LoginNeeded", code: "login_needed" });
  });

  it.each([null, undefined, "rate_limited", {}, { code: "rate_limited" }, new Error("No.")])(
    "is something else than %s",
    (thing) => {
      expect(isOf(thing)).toEqual([]);
    },
  );

  it("tells what was decided, and what is missing", () => {
    const details = { decided: { by: "u1" }, missing: ["day", 2] };
    for (const make of [
      (code: string, of?: object) => errorFromWire({ code, ...(of && { details: of as never }) }),
      (code: string, of?: object) =>
        new (refusals.find((kind) => kind.code === code) as Kind)("No.", { details: of as never }),
    ]) {
      for (const code of ["pending_resolved", "pending_expired"]) {
        for (const given of [details, undefined]) {
          const error: unknown = make(code, given);
          if (!(error instanceof PendingResolved || error instanceof PendingExpired)) {
            throw error;
          }
          expect(error.decided).toEqual(given?.decided ?? {});
        }
      }
      for (const given of [details, undefined]) {
        const error: unknown = make("missing_answers", given);
        if (!(error instanceof MissingAnswers)) {
          throw error;
        }
        expect(error.missing).toEqual(given ? ["day", "2"] : []);
      }
    }
  });

  it("has what the server told of it, and null for the rest", () => {
    const facts = { field: "a.b", suggestion: "Do.", docs: "https://docs", details: { a: 1 } };
    const error = errorFromWire({
      code: "bad_request",
      message: "No.",
      temporary: true,
      retry_after_ms: 7,
      ...facts,
    });
    expect({ ...error }).toEqual({
      name: "BadRequest",
      code: "bad_request",
      temporary: true,
      retryAfterMs: 7,
      ...facts,
    });
    const nothing = { retryAfterMs: null, field: null, details: null, suggestion: null, docs: null };
    expect({ ...errorFromWire({}) }).toEqual({
      name: "Internal",
      code: "internal",
      temporary: false,
      ...nothing,
    });
    expect(errorFromWire({ code: "new", stack: "theirs", decided: 1, more: 2 } as never)).not.toHaveProperty(
      "more",
    );
    expect(Object.hasOwn(new ParleyError("No."), "cause")).toBe(false);
  });
});

const turn: client.Turn = {
  conversation_id: "c1",
  command_id: "k",
  messages: [],
  text: "",
  state: "idle",
  slots: {},
  variables: {},
  actions: [],
  processing_time_ms: null,
  success: false,
  ab_variant: null,
  execution_id: null,
  duplicate: false,
  raw: {},
};
