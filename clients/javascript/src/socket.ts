/**
 * Where a runtime has no WebSocket of its own: browsers, Deno, Bun and Node from 22 on have one.
 *
 * @module
 */

import type { SocketClass } from "./sockets.js";

/** A WebSocket to use where there is no other. */
export const FallbackSocket: SocketClass | undefined = undefined;
