import { statfsSync } from 'node:fs';
import { FerryError } from '@ferry/core';
import type { OwnedFd } from '@ferry/linux';
import { ByteReader } from './archive/byte-reader.js';
import { packTree } from './archive/pack.js';
import { openFolder, openInRoot } from './archive/raw-fs.js';
import { unpackTree } from './archive/unpack.js';

/** The content of a container's tmpfs mounts, seen through /proc/PID/root: a list of (path length
 *  u32, path, archive) ended by a length of 0. */

const TMPFS_MAGIC = 0x01021994;
const PATH_BYTES_MAX = 4096;

interface Options {
  readonly signal?: AbortSignal | undefined;
}

/** @param destinations  where the container's configuration mounts a tmpfs; what is none any more
 *    is left out */
export async function* exportMountContent(
  pid: number,
  destinations: readonly string[],
  options: Options = {},
): AsyncGenerator<Buffer, void, undefined> {
  using root = openFolder(`/proc/${pid}/root`);
  for (const destination of destinations) {
    using folder = openTmpfs(root, destination);
    if (folder === undefined) continue;
    const path = Buffer.from(destination, 'utf8');
    const head = Buffer.alloc(4);
    head.writeUInt32LE(path.length);
    yield Buffer.concat([head, path]);
    yield* packTree(folder, options);
  }
  yield Buffer.alloc(4);
}

/** Fills the fresh tmpfs mounts of a container whose own programs do not run yet.
 *  @param destinations  the only places that are accepted
 *  @throws FerryError container.archive */
export async function importMountContent(
  pid: number,
  destinations: readonly string[],
  chunks: AsyncIterable<Buffer>,
  options: Options = {},
): Promise<void> {
  const reader = new ByteReader(chunks);
  try {
    using root = openFolder(`/proc/${pid}/root`);
    for (;;) {
      const length = await reader.u32();
      if (length === 0) return;
      if (length > PATH_BYTES_MAX) throw refused(`a path of ${length} bytes`);
      const destination = (await reader.read(length)).toString('utf8');
      if (!destinations.includes(destination)) throw refused(JSON.stringify(destination));
      using folder = openTmpfs(root, destination);
      if (folder === undefined) throw refused(`${destination}, which is not mounted here`);
      await unpackTree(folder, reader, { ...options, into: 'prepared' });
    }
  } finally {
    await reader.close();
  }
}

function openTmpfs(root: OwnedFd, destination: string): OwnedFd | undefined {
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
