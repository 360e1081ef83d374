/** The driver as a program: tasks on standard input, what came of them on standard output. */
import { readFileSync, writeFileSync } from "node:fs";
import { talkAll } from "./driver.js";

writeFileSync(1, JSON.stringify(await talkAll(JSON.parse(readFileSync(0, "utf8")))));
process.exit(); // Node's own WebSocket has no way to let go of a connection whose other side is silent
