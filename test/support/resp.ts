import { connect, type Socket } from 'node:net';

export type Reply = string | number | null | Error | Reply[];

/** One request in the Redis protocol (RESP2). */
export function encodeCommand(args: readonly (string | number)[]): string {
  const parts = args.map((arg) => `$${Buffer.byteLength(String(arg))}\r\n${arg}\r\n`);
  return `*${args.length}\r\n${parts.join('')}`;
}

/** A client of Redis over one TCP connection that never connects again: what happens to the connection is what the
 *  tests want to know. Requests may be pipelined; replies come in order. */
export class RespClient {
  readonly socket: Socket;
  /** Why the connection ended, when it did. */
  ended: string | undefined;
  #pending = '';
  readonly #waiting: { resolve: (reply: Reply) => void; reject: (error: Error) => void }[] = [];

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => this.#receive(chunk));
    socket.on('error', (error) => this.#end(error.message));
    socket.on('close', () => this.#end('closed by the server'));
  }

  static open(host: string, port: number): Promise<RespClient> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host, port });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new RespClient(socket));
      });
    });
  }

  /** @throws Error when Redis answers with one, or the connection has ended. */
  async command(...args: (string | number)[]): Promise<Reply> {
    const reply = await this.send(encodeCommand(args));
    if (reply instanceof Error) throw reply;
    return reply;
  }

  /** Sends one encoded request. */
  send(request: string): Promise<Reply> {
    return new Promise((resolve, reject) => {
      if (this.ended !== undefined) {
        reject(new Error(`The connection has ended: ${this.ended}`));
        return;
      }
      this.#waiting.push({ resolve, reject });
      this.socket.write(request, 'latin1');
    });
  }

  close(): void {
    this.ended ??= 'closed by the client';
    this.socket.destroy();
  }

  #end(reason: string): void {
    this.ended ??= reason;
    for (const { reject } of this.#waiting.splice(0)) {
      reject(new Error(`The connection ended: ${this.ended}`));
    }
  }

  #receive(chunk: string): void {
    this.#pending += chunk;
    let at = 0;
    for (;;) {
      const parsed = parseReply(this.#pending, at);
      if (parsed === undefined) break;
      at = parsed.end;
      this.#waiting.shift()?.resolve(parsed.reply);
    }
    if (at > 0) this.#pending = this.#pending.slice(at);
  }
}

/** The reply that starts at `at`; undefined when it is not complete yet. */
export function parseReply(text: string, at: number): { reply: Reply; end: number } | undefined {
  const lineEnd = text.indexOf('\r\n', at);
  if (lineEnd === -1) return undefined;
  const line = text.slice(at + 1, lineEnd);
  const next = lineEnd + 2;
  switch (text[at]) {
    case '+':
      return { reply: line, end: next };
    case '-':
      return { reply: new Error(line), end: next };
    case ':':
      return { reply: Number(line), end: next };
    case '$': {
      const length = Number(line);
      if (length === -1) return { reply: null, end: next };
      if (text.length < next + length + 2) return undefined;
      return { reply: text.slice(next, next + length), end: next + length + 2 };
    }
    case '*': {
      const items: Reply[] = [];
      let end = next;
      for (let i = 0; i < Number(line); i += 1) {
        const item = parseReply(text, end);
        if (item === undefined) return undefined;
        items.push(item.reply);
        end = item.end;
      }
      return { reply: items, end };
    }
    default:
      throw new Error(`Not a reply of Redis: ${JSON.stringify(text.slice(at, at + 40))}`);
  }
}
