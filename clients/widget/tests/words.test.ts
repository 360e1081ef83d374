import { expect, test } from "vitest";
import { OTHERS } from "../src/chat/others.js";
import { filled, wordsOf } from "../src/chat/words.js";
import { isRightToLeft, languageOf, launcherWords } from "../src/launcher/words.js";

const places = (text: string) => (text.match(/\{\w+\}/g) ?? []).sort();

test.each(["en", ...Object.keys(OTHERS)])("%s has every word, with the same places in it", (language) => {
  const [words, english] = [wordsOf(language, {}, OTHERS), wordsOf("en", {})];
  expect(languageOf(language)).toBe(language);
  expect(Object.keys(words)).toEqual(Object.keys(english));
  for (const [name, text] of Object.entries(words)) {
    expect(text, name).toBeTruthy();
    expect(text, name).not.toContain("|");
    expect(places(text), name).toEqual(places(english[name as keyof typeof english]));
  }
  for (const text of Object.values(launcherWords(language, {}))) expect(text).toBeTruthy();
  expect(places(launcherWords(language, {}).unread)).toEqual(["{n}"]);
});

test("a region has the words of its language, and what has none is English", () => {
  expect(wordsOf("de-AT", {}, OTHERS).send).toBe("Senden");
  expect(wordsOf("tlh", {}, OTHERS).send).toBe("Send");
  expect(wordsOf("constructor", {}, OTHERS).send).toBe("Send");
});

test("a page's own words win", () => {
  expect(wordsOf("de", { heading: "Praxis" }, OTHERS).heading).toBe("Praxis");
  expect(filled("{n} of {quorum} {other}", { n: 1, quorum: 2 })).toBe("1 of 2 {other}");
});

test("Arabic and Hebrew are written from right to left", () => {
  for (const locale of ["ar", "ar-EG", "he", "fa-IR"]) expect(isRightToLeft(locale)).toBe(true);
  for (const locale of ["en", "arn", "de"]) expect(isRightToLeft(locale)).toBe(false);
});
