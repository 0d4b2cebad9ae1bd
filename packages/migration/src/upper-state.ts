import { createHash } from 'node:crypto';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';

/** What a folder looked like: enough to tell whether anything below it was changed since, as a file system that moves
 *  ctime with every change tells it. */
export interface FolderState {
  readonly digest: string;
  readonly bytes: number;
}

/** Looks at every file below `folder`, and into none. */
export async function folderState(folder: string): Promise<FolderState> {
  const hash = createHash('sha256');
  let bytes = 0;
  const visit = async (path: string, name: string): Promise<void> => {
    const stat = await unlessGone(lstat(path, { bigint: true }));
    if (stat === undefined) return;
    hash.update(`${name}\0${stat.ino} ${stat.mode} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}\0`);
    if (stat.isFile()) bytes += Number(stat.blocks * 512n);
    if (!stat.isDirectory()) return;
    for (const entry of ((await unlessGone(readdir(path))) ?? []).sort()) {
      await visit(join(path, entry), `${name}/${entry}`);
    }
  };
  await visit(folder, '');
  return { digest: hash.digest('hex'), bytes };
}

/** A container that runs removes files while they are looked at. */
async function unlessGone<T>(result: Promise<T>): Promise<T | undefined> {
  try {
    return await result;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
