/**
 * What a WebSocket must be able to do.
 *
 * @module
 */

/** What this client needs of a WebSocket; the classes of browsers, Node and the package `ws` fit. */
export interface SocketLike {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: { data: unknown } & never) => void) | null;
  onclose: ((event: { code: number; reason: string } & never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/** The class of such sockets. */
export type SocketClass = new (url: string, protocols: string) => SocketLike;
