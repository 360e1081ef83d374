import { expect, test } from "vitest";

// the announcer's region is an element; sentences need none
const { Speech } = await import("../src/chat/announcer.js");

function heard(pieces: string[], who = ""): string[] {
  const said: string[] = [];
  const speech = new Speech((text) => said.push(text.trim()), who);
  for (const piece of pieces) speech.take(piece);
  speech.end();
  return said;
}

const TEXT = "Hello there. It costs 3.50 euros (about). “Really?” Yes! And v1.2\nend";
const SENTENCES = ["Hello there.", "It costs 3.50 euros (about).", "“Really?”", "Yes!", "And v1.2", "end"];

test("sentences are told whole, however the text is cut", () => {
  expect(heard([TEXT])).toEqual(SENTENCES);
  expect(heard(TEXT.split(""))).toEqual(SENTENCES);
});

test("nothing is told before a sentence is whole", () => {
  const said: string[] = [];
  const speech = new Speech((text) => said.push(text));
  speech.take("I am not");
  speech.take(" done.");
  expect(said).toEqual([]);
  speech.take(" Now");
  expect(said).toEqual(["I am not done. "]);
});

test("who speaks is told once", () => {
  expect(heard(["One. Two."], "Ada: ")).toEqual(["Ada: One.", "Two."]);
});

test("a text without an end is told in pieces", () => {
  const told = heard(Array.from({ length: 2000 }, () => "x "));
  expect(told.length).toBeGreaterThan(8);
  expect(told.join(" ").replaceAll(/\s+/g, " ")).toBe("x ".repeat(2000).trim());
});
