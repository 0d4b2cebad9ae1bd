import { errorText, FerryError } from '@ferry/core';
import type { Logger } from './logger.js';
import type { RestoreWork } from './restore-work.js';
import type { FilesKind, SourcePort } from './source-port.js';

interface Parameters {
  readonly migrationId: string;
  readonly port: SourcePort;
  readonly restore: RestoreWork;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  readonly warn: (text: string) => void;
}

/** Files that come with a container: its writable layer and its tmpfs mounts, copied while it runs and then followed, and
 *  its log. */
export class IncomingFiles {
  readonly #p: Parameters;
  /** The copy made of the running container is whole. */
  #upperCame = false;
  /** As the runtime made them, as they were copied, or something between two such states. */
  #mounts: 'empty' | 'copied' | 'spoilt' = 'empty';
  #logBytes = 0;

  constructor(parameters: Parameters) {
    this.#p = parameters;
  }

  /** Before the restorer is started. Changes meanwhile come later. */
  async copy(): Promise<void> {
    const { signal, logger } = this.#p;
    await this.#copyUpper().catch((error: unknown) => {
      signal.throwIfAborted();
      logger.debug('the writable layer is copied later', { error: errorText(error) });
    });
    await this.#copyLog('log');
  }

  /** Once it is started. */
  async copyMounts(): Promise<void> {
    const { restore, signal, warn } = this.#p;
    try {
      await restore.importMounts(this.#pull('mounts-copy'), { signal });
      this.#mounts = 'copied';
    } catch (error) {
      signal.throwIfAborted();
      warn(`Its tmpfs mounts moved while it stood: ${errorText(error)}`);
    }
  }

  /** While the container runs: what has changed since it was copied. */
  async follow(): Promise<void> {
    await allDone([this.#followUpper(), this.#followMounts()]);
  }

  /** Of a container that stands: what came too late, or has changed.
   *  @throws FerryError dumpbin.skeleton when the container must be made again */
  async finish(): Promise<void> {
    const { restore, signal } = this.#p;
    if (!this.#upperCame || this.#mounts === 'spoilt') throw changedFiles();
    const orAgain = async (work: Promise<void>): Promise<void> => {
      await work.catch((error: unknown) => {
        signal.throwIfAborted();
        throw changedFiles(error);
      });
    };
    await allDone([
      orAgain(restore.importUpperChanges(this.#pull('upper-rest'), { signal })),
      this.#mounts === 'empty'
        ? restore.importMounts(this.#pull('mounts'), { signal })
        : orAgain(restore.importMountChanges(this.#pull('mounts-rest'), { signal })),
      this.#copyLog('log-rest'),
    ]);
  }

  /** The container stands, and was removed: `finish` brings the rest once its restorer was started again. */
  async copyAgain(): Promise<void> {
    await this.#copyUpper();
    this.#mounts = 'empty';
    this.#logBytes = 0;
  }

  async #copyUpper(): Promise<void> {
    const { restore, signal } = this.#p;
    this.#upperCame = false;
    await restore.importUpper(this.#pull('upper'), { signal });
    this.#upperCame = true;
  }

  async #followUpper(): Promise<void> {
    const { restore, signal, logger } = this.#p;
    if (!this.#upperCame) return;
    try {
      await restore.importUpperChanges(this.#pull('upper-changes'), { signal });
    } catch (error) {
      signal.throwIfAborted();
      this.#upperCame = false;
      logger.debug('the writable layer is copied later', { error: errorText(error) });
    }
  }

  async #followMounts(): Promise<void> {
    const { restore, signal, logger } = this.#p;
    if (this.#mounts !== 'copied') return;
    try {
      await restore.importMountChanges(this.#pull('mounts-changes'), { signal });
    } catch (error) {
      signal.throwIfAborted();
      this.#mounts = 'spoilt';
      logger.debug('the tmpfs mounts are copied later', { error: errorText(error) });
    }
  }

  /** The log from where the last copy ended. */
  async #copyLog(kind: 'log' | 'log-rest'): Promise<void> {
    const { restore, port, migrationId, signal } = this.#p;
    const what = { kind, from: this.#logBytes };
    await restore.importLog(this.#counted(port.pullState(migrationId, what, { signal })));
  }

  async *#counted(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.#logBytes += chunk.length;
      yield chunk;
    }
  }

  #pull(kind: FilesKind): AsyncIterable<Buffer> {
    const { port, migrationId, signal } = this.#p;
    return port.pullState(migrationId, { kind }, { signal });
  }
}

function changedFiles(cause?: unknown): FerryError {
  const why = cause === undefined ? '' : `: ${errorText(cause)}`;
  const message = `what has changed of its files could not be followed${why}`;
  return new FerryError('dumpbin.skeleton', message, { cause });
}

/** Waits for all, then throws the first failure: none goes on behind the back of what cleans up. */
async function allDone(works: readonly Promise<void>[]): Promise<void> {
  const ends = await Promise.allSettled(works);
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}
