import type { Container, ContainerSpec, LogChunk, LogOptions } from '@ferry/api';
import type { ContainerHost, ContainerStatus } from '@ferry/container';
import { FerryError } from '@ferry/core';
import { containerMessage, runSpec } from '@ferry/migration';
import type { Claims } from './claims.js';
import type { Migrations } from './migrations.js';

const GRACE_MS = 10_000;

/** The containers of this host as the API shows them. */
export class Containers {
  readonly #host: ContainerHost;
  readonly #claims: Claims;
  readonly #isOutgoing: Migrations['isOutgoing'];

  constructor(host: ContainerHost, claims: Claims, isOutgoing: Migrations['isOutgoing']) {
    this.#host = host;
    this.#claims = claims;
    this.#isOutgoing = isOutgoing;
  }

  /** Creates and starts a container; when it fails nothing is left. */
  async run(spec: ContainerSpec, epoch: bigint, signal: AbortSignal): Promise<Container> {
    const release = this.#claims.claim(spec.name, 'its start');
    try {
      const options = { signal, epoch: Number(epoch) };
      return await this.#message(await this.#host.run(runSpec(spec), options));
    } finally {
      release();
    }
  }

  /** Success when there is no such container.
   *  @throws FerryError container.busy while it moves */
  async stop(name: string, options: { graceMs: number; remove: boolean }): Promise<void> {
    const release = this.#claims.claim(name, 'its stop', { toEnd: true });
    try {
      if ((await this.#host.find(name)) === undefined) return;
      if (this.#isOutgoing(name)) {
        throw new FerryError('container.busy', `Container ${name} now belongs to another host`);
      }
      const timeoutMs = options.graceMs === 0 ? GRACE_MS : options.graceMs;
      if ((await this.#host.get(name)).pid !== undefined) {
        await this.#host.stop(name, { timeoutMs });
      }
      if (options.remove) await this.#host.remove(name);
    } finally {
      release();
    }
  }

  async list(): Promise<Container[]> {
    const statuses = await this.#host.list();
    return await Promise.all(statuses.map((status) => this.#message(status)));
  }

  async get(name: string): Promise<Container> {
    return await this.#message(await this.#host.get(name));
  }

  async *logs(
    name: string,
    options: LogOptions | undefined,
    signal: AbortSignal,
  ): AsyncGenerator<LogChunk> {
    const tail = options?.tailLines;
    const lines = this.#host.readLog(name, {
      follow: options?.follow ?? false,
      signal,
      ...(tail === undefined ? {} : { tail }),
    });
    for await (const { stream, line } of lines) {
      yield { stream, data: Buffer.from(`${line}\n`) };
    }
  }

  async #message(status: ContainerStatus): Promise<Container> {
    const { name } = status.record;
    const memory = status.pid === undefined ? undefined : await this.#memory(name);
    return containerMessage(status, {
      memoryBytes: memory ?? 0,
      outgoing: this.#isOutgoing(name),
    });
  }

  async #memory(name: string): Promise<number | undefined> {
    try {
      return (await this.#host.memory(name)).usageBytes;
    } catch {
      return undefined; // it has just gone
    }
  }
}
