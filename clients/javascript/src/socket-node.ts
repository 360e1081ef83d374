/**
 * A WebSocket for Node 20, which has none: RFC 6455's client half, over `node:http`.
 *
 * It does what this client needs: text frames, masks, fragments, ping and pong, the closing handshake. No
 * extensions. Node 22 and newer, browsers, Deno and Bun have a WebSocket of their own, and this is not used there.
 *
 * @module
 */
import { createHash, randomBytes } from "node:crypto";
import { type ClientRequest, request as insecure } from "node:http";
import { request as secure } from "node:https";
import type { Duplex } from "node:stream";
import type { SocketClass, SocketLike } from "./sockets.js";

/** The server keeps to 512 KiB; twice that, so that a bound moved there does not break this client. */
const MAX_MESSAGE_BYTES = 1024 * 1024;
/** How long the closing handshake may take. */
const CLOSE_MS = 2_000;
const TEXT = 1;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

class NodeSocket implements SocketLike {
  onopen: SocketLike["onopen"] = null;
  onmessage: SocketLike["onmessage"] = null;
  onclose: SocketLike["onclose"] = null;
  onerror: SocketLike["onerror"] = null;
  #request: ClientRequest;
  #stream: Duplex | null = null;
  #unread: Buffer = Buffer.alloc(0);
  #parts: Buffer[] = [];
  #partBytes = 0;
  #closing = false;
  #ended = false;
  #code = 1006;
  #reason = "";

  constructor(url: string, protocols: string) {
    const key = randomBytes(16).toString("base64");
    const request = /^wss:/.test(url) ? secure : insecure;
    this.#request = request(url.replace(/^ws/, "http"), {
      agent: false,
      headers: {
        Connection: "Upgrade",
        Upgrade: "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Protocol": protocols,
      },
    });
    this.#request.on("error", (error) => this.#end(1006, error.message));
    this.#request.on("response", (response) => {
      response.resume();
      this.#end(1006, `the server answered ${response.statusCode}`);
    });
    this.#request.on("upgrade", (response, stream, head) => {
      const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455, 1.3
      const accept = createHash("sha1")
        .update(key + guid)
        .digest("base64");
      const { "sec-websocket-accept": accepted, "sec-websocket-protocol": chosen } = response.headers;
      if (this.#ended || accepted !== accept || chosen !== protocols) {
        stream.destroy();
        this.#end(1006, "the answer to the handshake is wrong");
        return;
      }
      this.#open(stream, head);
    });
    this.#request.end();
  }

  send(text: string): void {
    if (!this.#closing) {
      this.#write(TEXT, Buffer.from(text));
    }
  }

  close(code = 1000, reason = ""): void {
    if (this.#closing || this.#ended) {
      return;
    }
    this.#closing = true;
    if (!this.#stream) {
      this.#end(1006, "closed before it was open");
      return;
    }
    const body = Buffer.alloc(2);
    body.writeUInt16BE(code);
    this.#write(CLOSE, Buffer.concat([body, Buffer.from(reason)]));
    setTimeout(() => this.#end(this.#code, this.#reason), CLOSE_MS).unref();
  }

  #open(stream: Duplex, head: Buffer): void {
    this.#stream = stream;
    (stream as Duplex & { setNoDelay?: (on: boolean) => void }).setNoDelay?.(true);
    stream.on("error", (error) => this.#end(this.#code, error.message));
    stream.on("close", () => this.#end(this.#code, this.#reason));
    stream.on("end", () => stream.end());
    stream.on("data", (data: Buffer) => this.#read(data));
    this.onopen?.({} as never);
    this.#read(head);
  }

  #read(data: Buffer): void {
    this.#unread = this.#unread.length ? Buffer.concat([this.#unread, data]) : data;
    while (!this.#ended && this.#readFrame()) {
      // as many frames as have come
    }
  }

  /** Take one frame from what is unread; false where it has not come as a whole. */
  #readFrame(): boolean {
    const bytes = this.#unread;
    if (bytes.length < 2) {
      return false;
    }
    const [first, second] = bytes as unknown as [number, number];
    let length = second & 0x7f;
    let start = 2;
    if (length >= 126) {
      start = length === 126 ? 4 : 10;
      if (bytes.length < start) {
        return false;
      }
      length = length === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
    }
    if (first & 0x70 || second & 0x80) {
      this.#end(1002, "the server broke the protocol of WebSockets");
      return false;
    }
    if (this.#partBytes + length > MAX_MESSAGE_BYTES) {
      this.#end(1009, "the server sent too much at once");
      return false;
    }
    if (bytes.length < start + length) {
      return false;
    }
    this.#unread = bytes.subarray(start + length);
    this.#take(first & 0x0f, Boolean(first & 0x80), bytes.subarray(start, start + length));
    return true;
  }

  #take(kind: number, isLast: boolean, body: Buffer): void {
    if (kind === PING) {
      this.#write(PONG, body);
    } else if (kind === CLOSE) {
      this.#code = body.length >= 2 ? body.readUInt16BE(0) : 1005;
      this.#reason = body.subarray(2).toString();
      if (!this.#closing) {
        this.#closing = true;
        this.#write(CLOSE, body.subarray(0, 2));
      }
      this.#stream?.end();
    } else if (kind !== PONG) {
      this.#parts.push(body);
      this.#partBytes += body.length;
      if (isLast) {
        const text = Buffer.concat(this.#parts).toString();
        this.#parts = [];
        this.#partBytes = 0;
        this.onmessage?.({ data: text } as never);
      }
    }
  }

  #write(kind: number, body: Buffer): void {
    const { length } = body;
    const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
    head[0] = 0x80 | kind;
    head[1] = 0x80 | (length < 126 ? length : length < 65_536 ? 126 : 127);
    if (head.length === 4) {
      head.writeUInt16BE(length, 2);
    } else if (head.length === 10) {
      head.writeBigUInt64BE(BigInt(length), 2);
    }
    const mask = randomBytes(4);
    const masked = Buffer.alloc(length);
    for (let at = 0; at < length; at += 1) {
      masked[at] = (body[at] as number) ^ (mask[at & 3] as number);
    }
    if (this.#stream?.writable) {
      this.#stream.write(Buffer.concat([head, mask, masked]));
    }
  }

  #end(code: number, reason: string): void {
    if (!this.#ended) {
      this.#ended = true;
      this.#request.destroy();
      this.#stream?.destroy();
      setImmediate(() => this.onclose?.({ code, reason } as never));
    }
  }
}

export const FallbackSocket: SocketClass | undefined = NodeSocket;
