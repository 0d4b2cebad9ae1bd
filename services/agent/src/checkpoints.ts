import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type CheckpointResult,
  type Container,
  checkId,
  type FileChunk,
  limits,
  type StoreCheckpointMessage,
  type StoreCheckpointResponse,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import {
  type Journal,
  newSealKey,
  type ProgressReporter,
  preflight,
  publicHalf,
  RestoreWork,
  readCheckpointManifest,
  restoreCheckpoint,
  SealedWriter,
  type SourceHost,
  SourceWork,
  writeCheckpoint,
} from '@ferry/migration';
import type { Claims } from './claims.js';

export interface CheckpointsOptions {
  readonly folder: string;
  readonly node: string;
  readonly stateDir: string;
  readonly source: SourceHost;
  readonly journal: Journal;
  readonly claims: Claims;
  readonly vdsoHash: bigint;
  readonly messageOf: (name: string) => Promise<Container>;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

interface Running {
  readonly progress: ProgressReporter;
  readonly signal: AbortSignal;
}

const SUFFIX = '.checkpoint';

/** The checkpoint files of one agent. */
export class Checkpoints {
  readonly #o: CheckpointsOptions;
  /** Files that were sent here lie encrypted until they are restored; the key is in this process's memory alone, so what
   *  is left of them after it is worth nothing to anybody. */
  readonly #key = newSealKey();

  private constructor(options: CheckpointsOptions) {
    this.#o = options;
  }

  /** Opens the store, and removes what was not finished. */
  static async open(options: CheckpointsOptions): Promise<Checkpoints> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    for (const name of await readdir(options.folder)) {
      if (!name.endsWith(SUFFIX)) await rm(join(options.folder, name));
    }
    return new Checkpoints(options);
  }

  /** Writes a container into the store. On failure it runs on, and there is no file. */
  async write(
    request: { name: string; checkpointId: string; leaveRunning: boolean; sealFor: Buffer },
    { progress, signal }: Running,
  ): Promise<CheckpointResult> {
    const { name: container, checkpointId, leaveRunning } = request;
    const { source, journal, now, vdsoHash, claims, node } = this.#o;
    const startedAt = now();
    const path = this.#path(checkpointId);
    const release = claims.claim(container, `checkpoint ${checkpointId}`);
    try {
      const found = await source.host.find(container);
      if (found === undefined) {
        throw new FerryError('container.unknown', `There is no container "${container}" here`);
      }
      const { record } = found;
      const epoch = BigInt(record.epoch + 1);
      const work = new SourceWork({
        ...{ source, journal, migrationId: checkpointId, container, epoch, now },
      });
      const createdAt = new Date().toISOString();
      let warnings: string[] = [];
      try {
        ({ warnings } = await writeCheckpoint({
          ...{ source, work, container, path: `${path}.new`, vdsoHash, createdAt },
          ...{ progress, signal },
          sealFor: request.sealFor.length === 0 ? undefined : request.sealFor,
        }));
        signal.throwIfAborted();
        await rename(`${path}.new`, path);
      } catch (error) {
        await work.thaw();
        await rm(`${path}.new`, { force: true });
        throw error;
      }
      if (leaveRunning) await work.thaw();
      else await work.destroy();
      const downtimeMs = work.frozenAt === undefined ? 0 : now() - work.frozenAt;
      progress.tell('verify', 'computing the hash of the file', 0.97);
      const { size } = await stat(path);
      return {
        ...{ checkpointId, container, node, downtimeMs, sizeBytes: BigInt(size), warnings },
        sha256: await sha256Of(path),
        totalMs: now() - startedAt,
      };
    } finally {
      release();
    }
  }

  /** Starts a container from a file of the store. On failure nothing of it is left. */
  async restore(
    request: { checkpointId: string; name: string; epoch: bigint },
    { progress, signal }: Running,
  ): Promise<Container> {
    const { source, vdsoHash, claims, stateDir } = this.#o;
    const path = await this.#toRestore(request.checkpointId);
    const { transfer } = await readCheckpointManifest(path, this.#key);
    const name = request.name === '' ? transfer.name : request.name;
    const release = claims.claim(name, `restore ${request.checkpointId}`);
    const work = new RestoreWork(source.host);
    try {
      await restoreCheckpoint(path, {
        ...{ work, source, name, vdsoHash, progress, signal, key: this.#key },
        epoch: Number(request.epoch),
        check: async ({ description }) => {
          const destination = { host: source.host, facts: source.facts, stateDir };
          const { problems } = await preflight(destination, description, { name });
          const [problem] = problems;
          if (problem === undefined) return;
          const text = `${this.#o.node} cannot run ${name}: ${problem.object}: ${problem.reason}`;
          throw Object.assign(
            new FerryError('restore.preflight', text, { remedy: problem.remedy }),
            {
              problems,
            },
          );
        },
      });
      return await this.#o.messageOf(name);
    } catch (error) {
      await work.remove();
      throw error;
    } finally {
      release();
    }
  }

  /** The file from byte `offset` on. */
  async *fetch(checkpointId: string, offset: number): AsyncGenerator<FileChunk> {
    const path = await this.#existing(checkpointId);
    const { size } = await stat(path);
    let at = offset;
    const options = { start: offset, highWaterMark: limits.chunkBytes };
    if (offset >= size) return;
    for await (const data of createReadStream(path, options)) {
      const sizeBytes = at === offset ? BigInt(size) : 0n;
      yield { offset: BigInt(at), data: data as Buffer, sizeBytes };
      at += (data as Buffer).length;
    }
  }

  /** Takes a file into the store; a stream that breaks leaves nothing. */
  async store(messages: AsyncIterable<StoreCheckpointMessage>): Promise<StoreCheckpointResponse> {
    let path: string | undefined;
    let file: Awaited<ReturnType<typeof open>> | undefined;
    let sealed: SealedWriter | undefined;
    const hash = createHash('sha256');
    let size = 0;
    try {
      for await (const { message } of messages) {
        if (message?.$case === 'checkpointId' && file === undefined) {
          path = this.#uploadPath(message.value);
          file = await open(`${path}.new`, 'w', 0o600);
          sealed = await SealedWriter.begin(file, publicHalf(this.#key));
        } else if (message?.$case === 'chunk' && sealed !== undefined) {
          const { data, offset } = message.value;
          if (Number(offset) !== size) throw wrongStream('a piece is missing');
          await sealed.write(data);
          hash.update(data);
          size += data.length;
        } else throw wrongStream('its messages are out of order');
      }
      if (file === undefined || path === undefined) throw wrongStream('it is empty');
      await sealed?.finish();
      await file.sync();
      const { transfer } = await readCheckpointManifest(`${path}.new`, this.#key);
      await rename(`${path}.new`, path);
      return { sizeBytes: BigInt(size), sha256: hash.digest('hex'), container: transfer.name };
    } catch (error) {
      if (path !== undefined) await rm(`${path}.new`, { force: true });
      throw error;
    } finally {
      await file?.close();
    }
  }

  /** Success when there is none. */
  async delete(checkpointId: string): Promise<void> {
    await rm(this.#path(checkpointId), { force: true });
    await rm(this.#uploadPath(checkpointId), { force: true });
  }

  #path(checkpointId: string): string {
    return join(this.#o.folder, `${checkId(checkpointId, 'Checkpoint id')}${SUFFIX}`);
  }

  /** Not with SUFFIX: what the next agent finds of them it removes. */
  #uploadPath(checkpointId: string): string {
    return join(this.#o.folder, `${checkId(checkpointId, 'Checkpoint id')}.upload`);
  }

  async #toRestore(checkpointId: string): Promise<string> {
    const sent = this.#uploadPath(checkpointId);
    const found = await stat(sent).catch(() => undefined);
    return found === undefined ? await this.#existing(checkpointId) : sent;
  }

  async #existing(checkpointId: string): Promise<string> {
    const path = this.#path(checkpointId);
    const found = await stat(path).catch(() => undefined);
    if (found !== undefined) return path;
    throw new FerryError('checkpoint.unknown', `Checkpoint ${checkpointId} is not on this node`);
  }
}

function wrongStream(how: string): FerryError {
  return new FerryError('checkpoint.invalid', `The stream of the checkpoint is not valid: ${how}`);
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const data of createReadStream(path, { highWaterMark: limits.chunkBytes })) {
    hash.update(data as Buffer);
  }
  return hash.digest('hex');
}
