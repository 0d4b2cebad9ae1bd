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
    return this.#faults.session?.(apart(answers)) ?? answers;
  }

  pullPages(...args: Parameters<SourcePort['pullPages']>) {
    const chunks = this.#port.pullPages(...args);
    return this.#faults.pages?.(chunks, args[1]) ?? chunks;
  }

  fetchPages(...args: Parameters<SourcePort['fetchPages']>) {
    const chunks = this.#port.fetchPages(...args);
    return this.#faults.fetched?.(chunks) ?? chunks;
  }

  pullLayer(...args: Parameters<SourcePort['pullLayer']>) {
    const chunks = this.#port.pullLayer(...args);
    return this.#faults.bytes?.(chunks) ?? chunks;
  }

  pullState(...args: Parameters<SourcePort['pullState']>) {
    const chunks = this.#port.pullState(...args);
    return this.#faults.state?.(chunks, args[1].kind) ?? chunks;
  }

  close(): void {
    this.#port.close();
  }
}

export interface Faults {
  session(answers: AsyncIterable<SourceMessage>): AsyncIterable<SourceMessage>;
  /** @param round  0: of the frozen container */
  pages(chunks: AsyncIterable<PageChunk>, round: number): AsyncIterable<PageChunk>;
  /** Memory that comes once the container runs. */
  fetched(chunks: AsyncIterable<PageChunk>): AsyncIterable<PageChunk>;
  bytes(chunks: AsyncIterable<Buffer>): AsyncIterable<Buffer>;
  state(chunks: AsyncIterable<Buffer>, kind: string): AsyncIterable<Buffer>;
}

/** Each message by itself. */
async function* apart(answers: AsyncIterable<SourceMessage>) {
  for await (const answer of answers) {
    if (answer.message?.$case === 'together') yield* answer.message.value.messages;
    else yield answer;
  }
}

/** Passes on what comes until `change` says otherwise: undefined ends the stream. */
export async function* changed<T>(
  items: AsyncIterable<T>,
  change: (item: T, index: number) => Promise<T> | T | undefined,
) {
  let index = 0;
  for await (const item of items) {
    const next = await change(item, index++);
    if (next === undefined) return;
    yield next;
  }
}
