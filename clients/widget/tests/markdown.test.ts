import { describe, expect, test } from "vitest";
import { safeHref } from "../src/markdown/parser.js";
import { render } from "./outline.js";

const TREES: [source: string, tree: string][] = [
  ["plain", "<p>plain</p>"],
  ["one\ntwo", "<p>one<br>two</p>"],
  ["one\n\ntwo", "<p>one</p><p>two</p>"],
  ["one\r\n\r\n\r\ntwo\n", "<p>one</p><p>two</p>"],
  ["# Big\nsmall", "<heading>Big</heading><p>small</p>"],
  ["#hashtag", "<p>#hashtag</p>"],
  ["####### seven", "<p>####### seven</p>"],
  [
    "a *b* **c** ***d*** ~~e~~ `f`",
    "<p>a <em>b</em> <strong>c</strong> <strong><em>d</em></strong> <del>e</del> <code>f</code></p>",
  ],
  ["_a_ __b__ snake_case_name", "<p><em>a</em> <strong>b</strong> snake_case_name</p>"],
  ["2 * 3 * 4 and 5*6", "<p>2 * 3 * 4 and 5*6</p>"],
  ["**never closed", "<p>**never closed</p>"],
  ["**a *b** c", "<p><strong>a *b</strong> c</p>"],
  ["*a **b*", "<p><em>a **b</em></p>"],
  ["*a\n\nb*", "<p>*a</p><p>b*</p>"],
  ["`a *b* <i>`", "<p><code>a *b* <i></code></p>"],
  ["``a ` b``", "<p><code>a ` b</code></p>"],
  ["`never *closed*", "<p>`never *closed*</p>"],
  ["\\*a\\* \\a \\\\", "<p>*a* \\a \\</p>"],
  [
    "- a\n- b\n  - c\n- d",
    "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li><li><p>d</p></li></ul>",
  ],
  ["* a\n+ b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"],
  ["3. a\n4. b", "<ol 3><li><p>a</p></li><li><p>b</p></li></ol>"],
  ["1) a\n\n   more\n\nafter", "<ol><li><p>a</p><p>more</p></li></ol><p>after</p>"],
  ["- a\n1. b", "<ul><li><p>a</p></li></ul><ol><li><p>b</p></li></ol>"],
  ["text\n- a\ngoes on", "<p>text</p><ul><li><p>a<br>goes on</p></li></ul>"],
  ["-no item, 1.5 neither", "<p>-no item, 1.5 neither</p>"],
  ["1.5 litres", "<p>1.5 litres</p>"],
  ["> a\n> b\n\nc", "<blockquote><p>a<br>b</p></blockquote><p>c</p>"],
  ["> a\n>\n> - b\n> - c", "<blockquote><p>a</p><ul><li><p>b</p></li><li><p>c</p></li></ul></blockquote>"],
  ["a\n> b\n# c", "<p>a</p><blockquote><p>b</p></blockquote><heading>c</heading>"],
  ["a\n***\nb", "<p>a</p><hr><p>b</p>"],
  ["- - -", "<hr>"],
  ["```js\nlet a = *1*;\n\n  b\n```\nafter", "<pre><code>let a = *1*;\n\n  b\n</code></pre><p>after</p>"],
  ["~~~\n```\n~~~", "<pre><code>```\n</code></pre>"],
  ["```\nnever closed", "<pre><code>never closed</code></pre>"],
  [
    "- a\n  ```\n  b\n    c\n  ```\n- d",
    "<ul><li><p>a</p><pre><code>b\n  c\n</code></pre></li><li><p>d</p></li></ul>",
  ],
  ['[a *b*](https://a.example/x_(y) "title")!', "<p><a https://a.example/x_(y)>a <em>b</em></a>!</p>"],
  [
    "[a](/help) [b](help?x=1#y)",
    "<p><a https://shop.example/help>a</a> <a https://shop.example/basket/help?x=1#y>b</a></p>",
  ],
  [
    "[a](mailto:ada@example.com) [b](tel:+4930901820)",
    "<p><a mailto:ada@example.com>a</a> <a tel:+4930901820>b</a></p>",
  ],
  ["[a](javascript:alert(1)) [b](data:text/html,x)", "<p>[a](javascript:alert(1)) [b](data:text/html,x)</p>"],
  ["[a] [b]( [c](d", "<p>[a] [b]( [c](d</p>"],
  ["[a](b\nc)", "<p>[a](b<br>c)</p>"],
  ["![cat](https://a.example/cat.png) wow! [1]!", "<p><a https://a.example/cat.png>cat</a> wow! [1]!</p>"],
  [
    "see https://a.example/b_c, or (http://d.example).",
    "<p>see <a https://a.example/b_c>https://a.example/b_c</a>, or (<a http://d.example/>http://d.example</a>).</p>",
  ],
  [
    "https://a.example\nhttp:// https:x",
    "<p><a https://a.example/>https://a.example</a><br>http:// https:x</p>",
  ],
  ["**https://a.example**", "<p><strong><a https://a.example/>https://a.example</a></strong></p>"],
  ["[https://a.example](https://b.example)", "<p><a https://b.example/>https://a.example</a></p>"],
  ["<b onclick=x>&lt;", "<p><b onclick=x>&lt;</p>"],
  ["", ""],
  ["\n\n", ""],
  ["-", "<ul><li></li></ul>"],
  ["1. ", "<ol><li><p></p></li></ol>"],
];

describe("the subset", () => {
  test.each(TREES)("%j", (source, tree) => {
    expect(render([source]).tree).toBe(tree);
  });

  test("depth is bounded, and what is deeper stays text", () => {
    expect(render(["*a **b ".repeat(30)]).tree).not.toContain("<em>");
    const deep = Array.from({ length: 30 }, (_, level) => `${"  ".repeat(level)}- x`).join("\n");
    expect(render([deep]).tree.match(/<ul>/g)?.length).toBe(8);
  });
});

describe("however a text is cut", () => {
  test.each(TREES)("the tree is the same: %j", (source, tree) => {
    expect(render(source.split("")).tree).toBe(tree);
    for (let at = 1; at < source.length; at++)
      expect(render([source.slice(0, at), source.slice(at)]).tree).toBe(tree);
  });

  test("also of random texts", () => {
    let seed = 7;
    const random = (below: number) => {
      seed = (seed * 48271) % 2147483647;
      return seed % below;
    };
    const parts = [
      "*",
      "**",
      "_",
      "`",
      "```",
      "\n",
      "\n\n",
      "- ",
      "1. ",
      "> ",
      "# ",
      "[",
      "](",
      ")",
      "a",
      " ",
      "h",
      "http://x",
      "~~",
      "\\",
      "  ",
      "!",
      "---",
    ];
    for (let round = 0; round < 2000; round++) {
      const source = Array.from({ length: random(24) }, () => parts[random(parts.length)] as string);
      expect(render(source.join("").split("")).tree, source.join("")).toBe(render([source.join("")]).tree);
    }
  });
});

describe("a stream costs O(n)", () => {
  const KINDS: Record<string, string> = {
    prose:
      "Some **bold** and *soft* words, `code`, [a link](https://a.example/b) and https://c.example/d.\n\n",
    "one paragraph": "words without an end ",
    list: "- an item\n  - with another\n",
    code: "```\nlet a = 1;\n```\n",
    "one block of code": "x = 1\n",
    stars: "*a ",
    strong: "**a",
    "many stars": "*",
    brackets: "[",
    "closed brackets": "[a]",
    addresses: "[a](b",
    backticks: "`a``",
    quotes: "> ",
    blanks: " ",
    escapes: "\\",
    bangs: "!",
    scheme: "http://",
    dots: "http://a.",
    rules: "- ",
    underscores: "_a*b~~c",
  };
  const cost = (unit: string, size: number) => {
    const text =
      (unit === "x = 1\n" ? "```\n" : "") + unit.repeat(Math.ceil(size / unit.length)).slice(0, size);
    const { operations, looked } = render(text.split(""));
    return operations + looked;
  };

  test.each(Object.entries(KINDS))("of %s", (_, unit) => {
    const [half, whole] = [cost(unit, 10_240), cost(unit, 20_480)];
    expect(whole).toBeLessThan(20_480 * 8);
    expect(whole / half).toBeLessThan(2.1);
  });
});

test("only addresses that may be followed lead anywhere", () => {
  const refused = [
    "javascript:x",
    "JaVaScRiPt:x",
    " javascript:x",
    "java\nscript:x",
    "\u0001javascript:x",
    "data:x",
    "vbscript:x",
    "blob:x",
    "file:///x",
    "http://[",
  ];
  for (const address of refused) expect(safeHref(address, "https://a.example"), address).toBeNull();
  for (const address of ["http:x", "https://b", "mailto:a@b", "tel:1", "x", "//b", "#c"])
    expect(safeHref(address, "https://a.example")).not.toBeNull();
});
