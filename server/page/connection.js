// Keeps a session connected: socket, clock, timers, jittered pauses. It decides nothing about the protocol.

import { fullJitter } from "/page/session.js";

const STEADY_MS = 5_000; // a connection that held this long lets the next pause begin short again
const HANDSHAKE_MS = 10_000;

const now = () => Math.round(performance.now());

export class Connection {
  #session;
  #token;
  #tell;
  #onState;
  #onFrame;
  #socket = null;
  #timer = 0;
  #pause = 0;
  #attempt = 0;
  #welcomedAt = null;
  #ended = false; // by this page, for good
  #stopped = false; // by the server; only a person begins again
  #opening = false;
  #fresh = false;

  /**
   * @param session a Session.
   * @param token (fresh) => a promise of a token; fresh: the last one is no longer taken.
   * @param tell gets each output of the session that is not for the connection.
   * @param onState gets {state: connecting|live|waiting|stopped, reason, error}.
   * @param onFrame gets ("in"|"out", frame), tokens struck out.
   */
  constructor({ session, token, tell, onState, onFrame }) {
    [this.#session, this.#token, this.#tell, this.#onState, this.#onFrame] = [session, token, tell, onState, onFrame];
  }

  /** Connect, and stay connected until `end`. */
  async start() {
    if (this.#ended || this.#opening || this.#socket !== null) return;
    clearTimeout(this.#pause);
    this.#opening = true;
    this.#onState({ state: "connecting" });
    try {
      const token = await this.#token(this.#fresh);
      this.#fresh = false;
      if (!this.#ended) this.#open(token);
    } catch (error) {
      if (error.final) this.#stop(error.message, error);
      else this.#lost(1006, error.message);
    } finally {
      this.#opening = false;
    }
  }

  /** Close for good. */
  end() {
    this.#ended = true;
    clearTimeout(this.#pause);
    clearTimeout(this.#timer);
    this.#release()?.close();
  }

  /** The network, or the person at the page, is back: look at once instead of after the pause. */
  hurry() {
    if (this.#socket !== null) this.#tick();
    else if (!this.#stopped) this.start();
  }

  /** A person wants it: try at once, also where the server said that it is in vain. */
  insist() {
    this.#stopped = false;
    this.hurry();
  }

  /** Let the session take a step: `step(session, now)` returns its outputs. */
  perform(step) {
    for (const output of step(this.#session, now())) this.#do(output);
    this.#arm();
  }

  #open(token) {
    const url = new URL("/v1/ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, "parley.v1");
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(1006, "no answer"), HANDSHAKE_MS);
    socket.onopen = () => {
      clearTimeout(this.#timer);
      this.perform((session, now) => session.opened(token, now));
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.#record("in", data);
      this.perform((session, now) => session.receive(data, now));
    };
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  #lost(code, reason) {
    this.#release()?.close();
    this.perform((session, now) => session.closed(code, reason, now));
  }

  /** Let go of the socket: a dead one may take minutes to say that it has closed. */
  #release() {
    const socket = this.#socket;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#socket = null;
    if (socket !== null) socket.onopen = socket.onmessage = socket.onclose = null;
    return socket;
  }

  #do(output) {
    const { do: what } = output;
    if (what === "send") this.#send(output.frame);
    else if (what === "close") this.#lost(1006, output.reason);
    else if (what === "reconnect") this.#wait(output);
    else if (what === "stop") this.#stop(output.error?.message ?? output.reason, output.error);
    else if (what === "refresh_token") this.#refresh();
    else if (what === "online") {
      this.#welcomedAt = now();
      this.#onState({ state: "live" });
    } else this.#tell(output);
  }

  #send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const text = JSON.stringify(frame);
    this.#record("out", text);
    this.#socket.send(text);
  }

  #wait({ reason, within_ms: within, progress }) {
    const held = this.#welcomedAt !== null && now() - this.#welcomedAt >= STEADY_MS;
    this.#welcomedAt = null;
    if (progress || held) this.#attempt = 0;
    const told = within !== null && this.#attempt === 0;
    const pause = told ? Math.random() * Math.min(20_000, within) : fullJitter(this.#attempt, Math.random);
    this.#attempt += 1;
    this.#pause = setTimeout(() => this.start(), pause);
    this.#onState({ state: "waiting", reason });
  }

  #stop(reason, error) {
    this.#stopped = true;
    clearTimeout(this.#pause);
    this.#release()?.close();
    this.#onState({ state: "stopped", reason, error });
  }

  async #refresh() {
    this.#fresh = true;
    if (!this.#session.online) return; // the next connection asks
    try {
      const token = await this.#token(true);
      this.#fresh = false;
      this.perform((session) => session.token(token));
    } catch (error) {
      if (error.final) this.#stop(error.message, error);
    }
  }

  #record(way, text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    if (frame?.token) frame.token = "***";
    this.#onFrame(way, frame);
  }

  /** Have the session ticked when it is due. */
  #arm() {
    const due = this.#session.wakeup();
    if (due === null || this.#socket === null) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tick(), Math.max(0, due - now()));
  }

  #tick() {
    this.perform((session, now) => session.tick(now));
  }
}
