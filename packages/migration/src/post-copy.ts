import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { PostCopyReport } from '@ferry/api';
import type { ContainerHost } from '@ferry/container';
import { FerryError } from '@ferry/core';
import type { PageRun } from '@ferry/image';
import { type PageCounters, Pager, type PagerFigures } from '@ferry/pages';
import { ContainerPids } from './container-pids.js';
import type { LaterProcess } from './later-pages.js';
import type { Logger } from './logger.js';
import { PageFetch } from './page-fetch.js';
import type { SourcePort } from './source-port.js';

const PAGE = 4096;
const TELL_EVERY_MS = 250;
/** sockaddr_un(7) */
const SOCKET_PATH_MAX = 107;

interface Parameters {
  readonly migrationId: string;
  readonly container: string;
  readonly host: ContainerHost;
  /** Where pagers listen. */
  readonly folder: string;
  /** A new connection with the source's agent, wherever it is now. */
  readonly connect: () => SourcePort;
  /** For what nobody waits for; 0: no bound. */
  readonly bytesPerSecond: number;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** How much has not come yet. */
export type LaterProgress = Pick<PagerFigures, 'pagesLeft' | 'faults' | 'longestStallMs'>;

/** Memory that comes once the container runs here (post-copy): a pager holds what is missing, this process fetches it. */
export class PostCopy {
  readonly #p: Parameters;
  readonly #over = new AbortController();
  #pager: Pager | undefined;
  #fetch: PageFetch | undefined;
  #running: Promise<void> | undefined;
  #runsSince: number | undefined;
  #run: () => void = () => {};
  readonly #runs: Promise<void>;
  #report: PostCopyReport | undefined;

  constructor(parameters: Parameters) {
    this.#p = parameters;
    this.#runs = new Promise((resolve) => {
      this.#run = resolve;
    });
  }

  /** Takes over the pager of an agent before this one.
   *  @returns false when there is none */
  async adopt(): Promise<boolean> {
    try {
      this.#pager = await Pager.connect(this.#socket());
    } catch {
      return false;
    }
    this.runs();
    return true;
  }

  /** The processes wait with their final layout. From here on, whoever touches memory that is missing waits for it.
   *  @param userfaults  by PID: the descriptor of each process's userfaultfd */
  async begin(
    processes: readonly LaterProcess[],
    userfaults: ReadonlyMap<number, number>,
  ): Promise<void> {
    const { host, container, folder } = this.#p;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const pids = new ContainerPids(host.pids(container));
    this.#pager = await Pager.spawn(this.#socket(), { cgroup: host.cgroupPath(container) });
    for (const { pid, runs, ranges } of processes) {
      const descriptor = userfaults.get(pid);
      if (descriptor === undefined)
        throw new FerryError('restore.order', 'No userfaultfd was made');
      const owed = runs.map(rangeOf);
      await this.#pager.add({ hostPid: pids.hostPid(pid), pid, descriptor, ranges, owed });
    }
    this.#start();
  }

  #start(): void {
    const { migrationId, connect, logger, bytesPerSecond } = this.#p;
    if (this.#pager === undefined) throw new FerryError('restore.order', 'There is no pager');
    this.#fetch = new PageFetch({
      ...{ migrationId, connect, logger, pager: this.#pager, runs: this.#runs },
      bytesPerSecond,
    });
    this.#running = this.#fetch.run(this.#over.signal);
    this.#running.catch(() => {}); // `finish` looks at it
  }

  /** The container runs from now on. */
  runs(): void {
    this.#runsSince = this.#p.now();
    this.#run();
  }

  /** Waits until all is here.
   *  @param told  how it goes, a few times a second
   *  @throws FerryError pages.pagerGone: the container has been killed */
  async finish(told: (progress: LaterProgress) => void): Promise<void> {
    if (this.#running === undefined) this.#start();
    const pager = this.#pager!;
    const timer = setInterval(() => {
      pager.figures().then(told, () => {});
    }, TELL_EVERY_MS);
    try {
      await this.#running;
    } finally {
      clearInterval(timer);
    }
    const figures = await pager.done;
    const { now } = this.#p;
    this.#report = {
      faults: BigInt(figures.faults),
      longestStallMs: figures.longestStallMs,
      bytesFetched: BigInt(figures.pagesWanted * PAGE),
      bytesPushed: BigInt(figures.pagesPushed * PAGE),
      bytesDropped: BigInt(figures.pagesDropped * PAGE),
      ms: now() - (this.#runsSince ?? now()),
      reconnections: this.#fetch?.reconnections ?? 0,
    };
  }

  /** It is written down that all is here: an agent that starts again need not find the pager. */
  async end(): Promise<void> {
    await this.#pager?.end();
  }

  /** How it went, once it has. */
  get report(): PostCopyReport | undefined {
    return this.#report;
  }

  get counters(): PageCounters {
    return this.#fetch?.counters ?? { raw: 0, wire: 0 };
  }

  /** Nothing of the container has run, and nothing will. Repeatable. */
  async abandon(): Promise<void> {
    this.#over.abort(new FerryError('migrate.aborted', 'It is not needed any more'));
    this.#run();
    await this.#running?.catch(() => {});
    await this.#pager?.abandon();
  }

  /** Whether a pager may be there; `adopt` tells. */
  get isLikely(): boolean {
    return existsSync(this.#path);
  }

  get #path(): string {
    return join(this.#p.folder, `${this.#p.migrationId}.sock`);
  }

  #socket(): string {
    const path = this.#path;
    if (path.length <= SOCKET_PATH_MAX) return path;
    throw new FerryError('migrate.path', `${dirname(path)} is too long for a socket`, {
      remedy: 'give the agent a shorter --run-dir',
    });
  }
}

function rangeOf({ address, pages }: PageRun): { start: bigint; end: bigint } {
  return { start: address, end: address + pages * BigInt(PAGE) };
}
