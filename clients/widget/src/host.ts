// What the launcher and the chat part, two files of perhaps two versions, know of each other. A launcher from a
// browser's cache may meet a newer chat part for a few minutes, so fields are added here, never changed.

/** What the launcher gives to the chat part. */
export interface Host {
  readonly element: HTMLElement;
  readonly root: ShadowRoot;
  /** Where the panel goes. */
  readonly frame: HTMLElement;
  /** The address of the server, without a path. */
  readonly server: string;
  readonly locale: string;
  /** Words of the page in place of the widget's own, by name. */
  readonly strings: Partial<Record<string, string>>;
  /** A token, or what fetches one; undefined: the chat makes visitors of its own. */
  readonly token: TokenSource | undefined;
  /** Names what is kept in the browser. */
  readonly scope: string;
  attribute(name: string): string | null;
  /** A person wants the panel closed. */
  close(): void;
  /** So many messages have come that nobody has seen. */
  unread(count: number): void;
}

export type TokenSource = string | ((fresh: boolean) => string | Promise<string>);

/** What the chat part gives to the launcher. */
export interface Mounted {
  /** The panel is shown; `focus`: a person asked for it. */
  opened(focus: boolean): void;
  closed(): void;
  /** Ends with the turn. */
  send(text: string): Promise<void>;
  /** Begin another conversation. */
  restart(): void;
  /** Let go of everything. */
  end(): void;
}

/** What the chat part exports. */
export interface ChatModule {
  mount(host: Host): Promise<Mounted>;
}

/** Names what is kept in the browser: a server, a key and a flow have a conversation of their own. */
export function scopeOf(server: string, key: string | null, flow: string | null): string {
  return ["parley", new URL(server).host, key?.slice(0, 16) ?? "", flow ?? ""].join(".");
}

/** The entry that tells that a conversation was begun here. */
export const begun = (scope: string): string => `${scope}.conversation`;
