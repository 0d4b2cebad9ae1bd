import {
  type AgentOptions,
  connectMigrationSource,
  type DestinationMessage,
  type SourceClient,
} from '@ferry/api';
import type { SourcePort, StateRequest } from '@ferry/migration';
import type { WantedPages } from '@ferry/pages';
import { connectPages, type PageClient } from './page-codec.js';

interface Options {
  readonly signal: AbortSignal;
}

/** @param ticket  what the controller gave for this migration */
export type SourceOptions = AgentOptions & { readonly ticket?: Buffer | undefined };

/** A source's agent over gRPC: control on one connection, bulk data on another, so that neither waits for the other. What
 *  a thread waits for goes by a third one, made when it is needed. */
export class GrpcSourcePort implements SourcePort {
  readonly #ticket: Buffer | undefined;
  readonly #control: SourceClient;
  readonly #data: PageClient;
  readonly #connect: () => PageClient;
  #urgent: PageClient | undefined;

  /** @param address  HOST:PORT */
  constructor(address: string, { ticket, ...options }: SourceOptions = {}) {
    this.#ticket = ticket;
    this.#control = connectMigrationSource(address, { ...options, kind: 'control' });
    this.#connect = () => connectPages(address, options);
    this.#data = this.#connect();
  }

  session(messages: AsyncIterable<DestinationMessage>, options: Options) {
    return this.#control.session(withTicket(messages, this.#ticket), options);
  }

  pullPages(migrationId: string, round: number, credits: AsyncIterable<number>, options: Options) {
    return this.#data.pullPages(requests(migrationId, round, credits), options);
  }

  fetchPages(
    migrationId: string,
    wanted: AsyncIterable<WantedPages>,
    { urgent, signal }: Options & { urgent: boolean },
  ) {
    if (urgent) this.#urgent ??= this.#connect();
    const client = urgent ? (this.#urgent ?? this.#data) : this.#data;
    return client.fetchPages(fetches(migrationId, wanted), { signal });
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
    this.#urgent?.close();
  }
}

async function* withTicket(messages: AsyncIterable<DestinationMessage>, ticket?: Buffer) {
  for await (const { message } of messages) {
    if (message?.$case !== 'open' || ticket === undefined) yield { message };
    else yield { message: { ...message, value: { ...message.value, ticket } } };
  }
}

async function* fetches(migrationId: string, wanted: AsyncIterable<WantedPages>) {
  for await (const { pid, address, pages } of wanted) yield { migrationId, pid, address, pages };
}

async function* requests(migrationId: string, round: number, credits: AsyncIterable<number>) {
  for await (const bytes of credits) yield { migrationId, round, creditBytes: BigInt(bytes) };
}
