/** What of this client only Node, Deno and Bun have. @module */
export { fileOutbox } from "./file-outbox.js";
