import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { MappedFile } from '@ferry/api';

/** A folder or file of the host that a container sees. */
export interface HostMount {
  readonly source: string;
  readonly destination: string;
}

/** The path on the host of a file that a container sees through one of its bind mounts; undefined for a file of its
 *  root file system, which moves with it. */
export function hostPathOf(path: string, mounts: readonly HostMount[]): string | undefined {
  let best: HostMount | undefined;
  for (const mount of mounts) {
    const inside = path === mount.destination || path.startsWith(`${mount.destination}/`);
    if (inside && mount.destination.length > (best?.destination.length ?? -1)) best = mount;
  }
  if (best === undefined) return undefined;
  return join(best.source, path.slice(best.destination.length));
}

/** Identifies the content of a file of this host, so that another host can say whether it has the same. */
export async function describeMappedFile(path: string): Promise<MappedFile> {
  const { size } = await stat(path);
  return { path, sizeBytes: BigInt(size), digest: await sha256Of(path) };
}

/** The first of `files` that are not on this host as described, with what is wrong. */
export async function missingFiles(
  files: readonly MappedFile[],
): Promise<{ path: string; reason: string }[]> {
  const wrong: { path: string; reason: string }[] = [];
  for (const file of files) {
    const reason = await differenceOf(file);
    if (reason !== undefined) wrong.push({ path: file.path, reason });
  }
  return wrong;
}

async function differenceOf(file: MappedFile): Promise<string | undefined> {
  try {
    const { size } = await stat(file.path);
    if (BigInt(size) !== file.sizeBytes) {
      return `it has ${size} bytes here and ${file.sizeBytes} at the source`;
    }
    if ((await sha256Of(file.path)) !== file.digest) return 'its content is not the same';
    return undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? 'it does not exist here' : `it cannot be read (${code})`;
  }
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    hash.update(chunk as Buffer);
  }
  return `sha256:${hash.digest('hex')}`;
}
