import { constants, statfsSync } from 'node:fs';
import { FerryError } from '@ferry/core';
import { ERRNO, type OwnedFd, sys } from '@ferry/linux';
import { ByteReader } from './archive/byte-reader.js';
import { readChanges } from './archive/changes.js';
import type { FileMaker } from './archive/file-maker.js';
import { packTree } from './archive/pack.js';
import { namesIn, openBeneath, openFolder, openInRoot, pathBytes } from './archive/raw-fs.js';
import { unpackTree } from './archive/unpack.js';

/** The content of a container's tmpfs mounts, seen through /proc/PID/root: a list of (path length
 *  u32, path, archive) ended by a length of 0. Changes of it: the same, with what packChanges gives for archives. */

const TMPFS_MAGIC = 0x01021994;
const PATH_BYTES_MAX = 4096;
const AT_REMOVEDIR = 0x200;

interface Options {
  readonly signal?: AbortSignal | undefined;
}

interface ImportOptions extends Options {
  /** The container's root, where it is another one on the host. */
  readonly maker?: FileMaker | undefined;
}

/** @param rootPath  what is "/" for the container
 *  @param destinations  where its configuration mounts a tmpfs; what is none any more is left out */
export async function* exportMountContent(
  rootPath: string,
  destinations: readonly string[],
  options: Options = {},
): AsyncGenerator<Buffer, void, undefined> {
  using root = openFolder(rootPath);
  for (const destination of destinations) {
    using folder = openTmpfs(root, destination);
    if (folder === undefined) continue;
    yield headOfMount(destination);
    yield* packTree(folder, { ...options, ownFiles: true });
  }
  yield endOfMounts();
}

/** The bytes before the archive of one mount. */
export function headOfMount(destination: string): Buffer {
  const path = Buffer.from(destination, 'utf8');
  const head = Buffer.alloc(4);
  head.writeUInt32LE(path.length);
  return Buffer.concat([head, path]);
}

export function endOfMounts(): Buffer {
  return Buffer.alloc(4);
}

/** Fills the fresh tmpfs mounts of a container whose own programs do not run yet. When it fails they are empty again.
 *  @param rootPath  what is "/" for it
 *  @param destinations  the only places that are accepted
 *  @throws FerryError container.archive */
export async function importMountContent(
  rootPath: string,
  destinations: readonly string[],
  chunks: AsyncIterable<Buffer>,
  options: ImportOptions = {},
): Promise<void> {
  using root = openFolder(rootPath);
  try {
    await eachMount(root, destinations, chunks, async (folder, reader) => {
      await unpackTree(folder, reader, { ...options, into: 'prepared' });
    });
  } catch (error) {
    for (const destination of destinations) {
      using folder = openTmpfs(root, destination);
      if (folder !== undefined) empty(folder);
    }
    throw error;
  }
}

/** Brings changes into mounts that were filled before. When it fails some of them are made.
 *  @throws FerryError container.archive */
export async function importMountChanges(
  rootPath: string,
  destinations: readonly string[],
  chunks: AsyncIterable<Buffer>,
  options: ImportOptions = {},
): Promise<void> {
  using root = openFolder(rootPath);
  await eachMount(root, destinations, chunks, (folder, reader) =>
    readChanges(folder, reader, { ...options, plain: true }),
  );
}

async function eachMount(
  root: OwnedFd,
  destinations: readonly string[],
  chunks: AsyncIterable<Buffer>,
  visit: (folder: OwnedFd, reader: ByteReader) => Promise<void>,
): Promise<void> {
  const reader = new ByteReader(chunks);
  try {
    for (;;) {
      const length = await reader.u32();
      if (length === 0) return;
      if (length > PATH_BYTES_MAX) throw refused(`a path of ${length} bytes`);
      const destination = (await reader.read(length)).toString('utf8');
      if (!destinations.includes(destination)) throw refused(JSON.stringify(destination));
      using folder = openTmpfs(root, destination);
      if (folder === undefined) throw refused(`${destination}, which is not mounted here`);
      await visit(folder, reader);
    }
  } finally {
    await reader.close();
  }
}

/** Removes what is in a folder, but for what else is mounted there and the folders above it. */
function empty(folder: OwnedFd): void {
  for (const name of namesIn(folder)) {
    if (sys('unlinkat', folder.number, pathBytes(name), 0) !== -ERRNO.EISDIR) continue;
    if (sys('unlinkat', folder.number, pathBytes(name), AT_REMOVEDIR) >= 0) continue;
    try {
      using inner = openBeneath(folder, name, constants.O_RDONLY | constants.O_DIRECTORY);
      empty(inner);
    } catch (error) {
      if ((error as { code?: string }).code === 'linux.EXDEV') continue;
      throw error;
    }
    sys('unlinkat', folder.number, pathBytes(name), AT_REMOVEDIR);
  }
}

/** The folder where a tmpfs is mounted; undefined where none is. */
export function openTmpfs(root: OwnedFd, destination: string): OwnedFd | undefined {
  let folder: OwnedFd;
  try {
    folder = openInRoot(
      root,
      Buffer.from(destination, 'utf8').toString('latin1').replace(/^\/+/, ''),
    );
  } catch (error) {
    if ((error as { code?: string }).code === 'linux.ENOENT') return undefined;
    throw error;
  }
  if (statfsSync(`/proc/self/fd/${folder.number}`).type === TMPFS_MAGIC) return folder;
  folder[Symbol.dispose]();
  return undefined;
}

function refused(what: string): FerryError {
  return new FerryError('container.archive', `The archive of mounts names ${what}`);
}
