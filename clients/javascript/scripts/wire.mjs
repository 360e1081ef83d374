// Writes src/wire.ts, the types of the wire, from protocol/schema.json; with --check only tells whether it is current.
import { readFileSync, writeFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

const SCHEMA = new URL("../../../protocol/schema.json", import.meta.url);
const TARGET = new URL("../src/wire.ts", import.meta.url);
const HEAD = `/**
 * The frames, events and records of \`parley.v1\`, as they are on the wire.
 *
 * Written by \`npm run generate\` from protocol/schema.json; do not edit.
 *
 * @module
 */
`;

const schema = JSON.parse(readFileSync(SCHEMA, "utf8"));

/** Take the titles of fields away (each would become a type of its own), and what types cannot say. */
function plain(node, named = false) {
  if (Array.isArray(node)) return node.map((each) => plain(each));
  if (node === null || typeof node !== "object") return node;
  const kept = {};
  for (const [name, value] of Object.entries(node)) {
    if (name === "properties") {
      kept[name] = Object.fromEntries(Object.entries(value).map(([field, type]) => [field, plain(type)]));
    } else if (
      !["default", "discriminator", "maxItems", "minItems", ...(named ? [] : ["title"])].includes(name)
    ) {
      kept[name] = plain(value);
    }
  }
  if (node.properties && node.additionalProperties === true) {
    delete kept.additionalProperties; // all types are open; an index signature would hide misspelt fields
  }
  if (named && typeof kept.description === "string") {
    kept.description = kept.description.replaceAll("``", "`");
  }
  return kept;
}

const union = (title, { oneOf }) => ({ title, oneOf });
const text = await compile(
  {
    title: "Wire",
    type: "object",
    additionalProperties: false,
    required: ["client", "server", "event", "results"],
    properties: {
      client: union("ClientFrame", schema.client_frames),
      server: union("ServerFrame", schema.server_frames),
      event: union("KnownEvent", schema.events.known),
      results: { type: "array", items: { $ref: "#/$defs/HistoryResult" } },
      result: { $ref: "#/$defs/SubscribeResult" },
    },
    $defs: Object.fromEntries(Object.entries(schema.$defs).map(([name, type]) => [name, plain(type, true)])),
  },
  "Wire",
  {
    bannerComment: HEAD,
    additionalProperties: false,
    unknownAny: true,
    format: true,
    style: { printWidth: 110, tabWidth: 2 },
  },
);
const codes = (name, list) =>
  `\nexport type ${name} =\n${list.map((code) => `  | ${JSON.stringify(code)}`).join("\n")};\n`;
const whole =
  text.replace(/export interface Wire \{[^}]*\}\n/, "") + codes("ErrorCode", Object.keys(schema.error_codes));

if (process.argv.includes("--check")) {
  if (readFileSync(TARGET, "utf8") !== whole) {
    console.error("src/wire.ts is not current: run npm run generate in clients/javascript");
    process.exit(1);
  }
} else {
  writeFileSync(TARGET, whole);
}
