import { readLink, readProc } from '@ferry/linux';
import { coversOf, openCovered } from '../namespaces/covered.js';
import { parseMountInfo } from '../namespaces/mountinfo.js';
import type { Descriptor, DescriptorStat, FileContext } from './context.js';
import { mountNamespaceOf, mountPrefix } from './mount-prefix.js';
import { statPath } from './read-descriptors.js';

/** What covers a file. */
interface Covered {
  /** Mount.id of the one that the file was found through. */
  readonly mount: number;
  /** Where what covers it is mounted, in the order in which it is taken away. */
  readonly covers: readonly string[];
  readonly stat: DescriptorStat;
}

/** The mount that a file was opened through whose path leads elsewhere by now, as others are mounted over it; undefined
 *  when that is not why. It must be of the root's mount namespace, made anew together with the tree. */
export function coveredMountOf(descriptor: Descriptor, ctx: FileContext): number | undefined {
  const found = coveredFile(descriptor, descriptor.link, ctx);
  const { device, inode } = descriptor.stat;
  return found?.stat.device === device && found.stat.inode === inode ? found.mount : undefined;
}

/** The file at a path below what is mounted over it.
 *  @param opened  says (mnt_id) through which mount it was found */
export function coveredFile(
  opened: Pick<Descriptor, 'process' | 'info'>,
  path: string,
  ctx: FileContext,
): Covered | undefined {
  if (mountPrefix(opened, ctx) === '') return undefined;
  const { link, hostPid } = mountNamespaceOf(opened, ctx);
  if (link !== readLink(`/proc/${ctx.processes[0]!.hostPid}/ns/mnt`)) return undefined;
  const id = Number(/^mnt_id:\s*(\d+)/m.exec(opened.info)?.[1]);
  const known = ctx.shared('coveredFiles', () => new Map<string, Covered | undefined>());
  const key = `${id}:${path}`;
  if (!known.has(key)) known.set(key, look(path, { hostPid, id }));
  return known.get(key);
}

function look(path: string, { hostPid, id }: { hostPid: number; id: number }): Covered | undefined {
  const lines = parseMountInfo(readProc(`/proc/${hostPid}/mountinfo`));
  const mount = lines.find((line) => line.id === id);
  if (mount === undefined) return undefined;
  using file = openCovered(hostPid, lines, { mount, path });
  const stat = file && statPath(`/proc/self/fd/${file.number}`);
  const covers = coversOf(lines, mount, path).map(({ mountpoint }) => mountpoint);
  return stat && { mount: id, covers: covers.toReversed(), stat };
}
