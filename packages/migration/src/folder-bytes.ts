import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';

/** Room that all files below `folder` take on disk, in bytes. Whatever vanishes meanwhile is left out. */
export async function folderBytes(folder: string): Promise<number> {
  const stat = await unlessGone(lstat(folder));
  if (stat?.isFile()) return stat.blocks * 512;
  if (!stat?.isDirectory()) return 0;
  let bytes = 0;
  for (const entry of (await unlessGone(readdir(folder))) ?? []) {
    bytes += await folderBytes(join(folder, entry));
  }
  return bytes;
}

/** A container that runs removes files while they are looked at, and puts others in the place of folders. */
async function unlessGone<T>(result: Promise<T>): Promise<T | undefined> {
  try {
    return await result;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}
