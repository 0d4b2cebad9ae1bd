import { connectMigrationSource, type DestinationMessage, type SourceClient } from '@ferry/api';
import type { SourcePort, StateRequest } from '@ferry/migration';
import { connectPages, type PageClient } from './page-codec.js';

interface Options {
  readonly signal: AbortSignal;
}

/** A source's agent over gRPC: control on one connection, bulk data on another, so that neither waits for the other. */
export class GrpcSourcePort implements SourcePort {
  readonly #control: SourceClient;
  readonly #data: PageClient;

  /** @param address  HOST:PORT */
  constructor(address: string) {
    this.#control = connectMigrationSource(address, { kind: 'control' });
    this.#data = connectPages(address);
  }

  session(messages: AsyncIterable<DestinationMessage>, options: Options) {
    return this.#control.session(messages, options);
  }

  pullPages(migrationId: string, credits: AsyncIterable<number>, options: Options) {
    return this.#data.pullPages(requests(migrationId, credits), options);
  }

  async *pullLayer(migrationId: string, digest: string, options: Options) {
    for await (const { data } of this.#data.pullLayer({ migrationId, digest }, options)) yield data;
  }

  async *pullState(migrationId: string, what: StateRequest, options: Options) {
    const request = { migrationId, kind: what.kind, from: BigInt(what.from ?? 0) };
    for await (const { data } of this.#data.pullState(request, options)) yield data;
  }

  close(): void {
    this.#control.close();
    this.#data.close();
  }
}

async function* requests(migrationId: string, credits: AsyncIterable<number>) {
  for await (const bytes of credits) yield { migrationId, creditBytes: BigInt(bytes) };
}
