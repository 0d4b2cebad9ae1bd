import { type BigIntStats, fstatSync } from 'node:fs';
import { FerryError } from '@ferry/core';
import type { OwnedFd } from '@ferry/linux';
import { packChanges } from './archive/changes.js';
import { packTree } from './archive/pack.js';
import { openFolder } from './archive/raw-fs.js';
import { SentBlocks } from './archive/sent-blocks.js';
import { leavingOut, type TreeState, treeChanges, treeState } from './archive/tree-state.js';
import { FileWriters, isHeld, type Written } from './file-writers.js';
import { mappedFiles } from './mapped-files.js';
import { endOfMounts, headOfMount, openTmpfs } from './mount-content.js';

interface Parameters {
  /** What is "/" for the container. */
  readonly root: string;
  /** Where its configuration mounts a tmpfs. */
  readonly destinations: readonly string[];
  /** Processes that may have mapped files of it. */
  readonly hostPids: () => readonly number[];
}

interface Followed {
  readonly destination: string;
  readonly device: bigint;
  readonly writers: FileWriters;
  readonly sent: SentBlocks;
  /** What was sent; undefined: not all of it was. */
  state: TreeState | undefined;
}

type Look = 'running' | 'standing';

/** The content of a container's tmpfs mounts, first whole, then what has changed of it.
 *
 *  What was changed is told by the times of files, as for the writable layer, and for what no time tells of by FileWriters.
 *  Whether nobody has a file open for writing can be asked only while the container stands. So a look that it runs through
 *  may miss some of what was written, and the last one does not: since a file was last read, whoever wrote it has closed it,
 *  or has it open. A file that may have been written is read again, and what differs in it is sent.
 *
 *  It keeps an open descriptor, and nothing of the file systems busy. */
export class MountRounds implements Disposable {
  readonly #p: Parameters;
  readonly #followed: Followed[] = [];

  constructor(parameters: Parameters) {
    this.#p = parameters;
  }

  /** All there is, for `importMountContent`, while the container runs.
   *  @throws FerryError container.mounts when changes could not be followed, before anything is sent */
  async *copy(signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    using root = openFolder(this.#p.root);
    this.#watch(root);
    for (const followed of this.#followed) {
      using folder = open(root, followed);
      const { destination, sent } = followed;
      const state = await treeState(folder);
      const out: string[] = [];
      yield headOfMount(destination);
      const leftOut = (path: string) => out.push(path);
      yield* packTree(folder, { signal, sent, leftOut, looked: state, ownFiles: true });
      followed.state = leavingOut(state, out);
    }
    yield endOfMounts();
  }

  #watch(root: OwnedFd): void {
    this[Symbol.dispose]();
    for (const destination of this.#p.destinations) {
      using folder = openTmpfs(root, destination);
      if (folder === undefined) continue;
      const device = fstatSync(folder.number, { bigint: true }).dev;
      const writers = writersIn(folder, destination);
      const sent = new SentBlocks();
      this.#followed.push({ destination, device, writers, sent, state: undefined });
    }
  }

  /** What has changed since `copy`, or since this was last called, for `importMountChanges`.
   *  @param look  whether the container, and everybody else who may open its files, stands
   *  @throws FerryError container.mounts when that is not known */
  async *changes(look: Look, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    using root = openFolder(this.#p.root);
    const mapped = look === 'running' ? mappedFiles(this.#p.hostPids()) : undefined;
    for (const followed of this.#followed) {
      using folder = open(root, followed);
      const { destination, sent, device, state: before } = followed;
      if (before === undefined) throw unknown(`${destination} was not copied`);
      // Should it fail now, nobody knows what has come.
      followed.state = undefined;
      const { now, changes } = await this.#look(folder, followed, before, mapped?.get(device));
      const out: string[] = [];
      sent.keepOnly(now);
      const leftOut = (path: string) => out.push(path);
      const options = { signal, sent, leftOut, ownFiles: true };
      let isFirst = true;
      for await (const chunk of packChanges(folder, changes, options)) {
        if (isFirst) yield headOfMount(destination);
        isFirst = false;
        yield chunk;
      }
      followed.state = leavingOut(now, out);
    }
    yield endOfMounts();
  }

  /** @param mapped  written through mappings perhaps; undefined: it stands, and the kernel is asked */
  async #look(
    folder: OwnedFd,
    { writers, sent }: Followed,
    before: TreeState,
    mapped: ReadonlySet<bigint> | undefined,
  ) {
    const held = new Set<bigint>(mapped);
    const asked = new Set<bigint>();
    const ask = (where: Buffer, { ino, size }: BigIntStats): void => {
      if (asked.has(ino) || size === 0n) return;
      asked.add(ino);
      if (isHeld(where)) held.add(ino);
    };
    // Of a container that runs, what was closed is taken first: what is written from then on is told the next time.
    let written: Written | undefined = mapped === undefined ? undefined : writers.take();
    const now = await treeState(folder, mapped === undefined ? ask : undefined);
    written ??= writers.take();
    const doubtful = (inode: bigint) =>
      written === 'any' || written.has(inode) || held.has(inode) || sent.get(inode) === undefined;
    return { now, changes: treeChanges(before, now, { plain: true, doubtful }) };
  }

  [Symbol.dispose](): void {
    for (const { writers } of this.#followed.splice(0)) writers[Symbol.dispose]();
  }
}

function open(root: OwnedFd, { destination, device }: Followed): OwnedFd {
  const folder = openTmpfs(root, destination);
  if (folder !== undefined) {
    if (fstatSync(folder.number, { bigint: true }).dev === device) return folder;
    folder[Symbol.dispose]();
  }
  throw unknown(`something else is mounted at ${destination}`);
}

function writersIn(folder: OwnedFd, destination: string): FileWriters {
  try {
    return new FileWriters(folder);
  } catch (cause) {
    throw new FerryError('container.mounts', `Writes to files in ${destination} are not told`, {
      cause,
    });
  }
}

function unknown(why: string): FerryError {
  return new FerryError('container.mounts', `Changes of mounts are not known: ${why}`);
}
