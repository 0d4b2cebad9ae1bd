import type { DestinationMessage, SourceMessage } from '@ferry/api';
import type { SourcePort } from '@ferry/migration';
import type { PageChunk } from '@ferry/pages';

/** A source whose answers are changed on their way. */
export class FaultyPort implements SourcePort {
  readonly #port: SourcePort;
  readonly #faults: Partial<Faults>;

  constructor(port: SourcePort, faults: Partial<Faults>) {
    this.#port = port;
    this.#faults = faults;
  }

  session(messages: AsyncIterable<DestinationMessage>, options: { signal: AbortSignal }) {
    const answers = this.#port.session(messages, options);
    return this.#faults.session?.(answers) ?? answers;
  }

  pullPages(id: string, credits: AsyncIterable<number>, options: { signal: AbortSignal }) {
    const chunks = this.#port.pullPages(id, credits, options);
    return this.#faults.pages?.(chunks) ?? chunks;
  }

  pullLayer(...args: Parameters<SourcePort['pullLayer']>) {
    const chunks = this.#port.pullLayer(...args);
    return this.#faults.bytes?.(chunks) ?? chunks;
  }

  pullState(...args: Parameters<SourcePort['pullState']>) {
    return this.#port.pullState(...args);
  }

  close(): void {
    this.#port.close();
  }
}

export interface Faults {
  session(answers: AsyncIterable<SourceMessage>): AsyncIterable<SourceMessage>;
  pages(chunks: AsyncIterable<PageChunk>): AsyncIterable<PageChunk>;
  bytes(chunks: AsyncIterable<Buffer>): AsyncIterable<Buffer>;
}

/** Passes on what comes until `change` says otherwise: undefined ends the stream. */
export async function* changed<T>(
  items: AsyncIterable<T>,
  change: (item: T, index: number) => T | undefined,
) {
  let index = 0;
  for await (const item of items) {
    const next = change(item, index++);
    if (next === undefined) return;
    yield next;
  }
}
