import { readLink, tryReadProc } from '@ferry/linux';
import type { Descriptor, FileContext } from './context.js';

const ourPid = process.pid;

/** What of a descriptor says through which mounts its path leads. */
type Placed = Pick<Descriptor, 'process' | 'info'>;

/** Where the tree's paths start for us: nothing when it shares our mount namespace. /proc gives links relative to the
 *  reader's root there, and relative to the other namespace's root else. */
export function mountPrefix(descriptor: Placed, ctx: FileContext): string {
  const own = ctx.shared('mountNamespace', () => readLink('/proc/self/ns/mnt'));
  const { link, hostPid } = mountNamespaceOf(descriptor, ctx);
  return link === own ? '' : `/proc/${hostPid}/root`;
}

/** The mount namespace that an open file was found through, and a process that is in it: mostly that of who has it open. */
export function mountNamespaceOf(
  { process, info }: Placed,
  ctx: FileContext,
): { link: string; hostPid: number } {
  // What was in flight in a socket was taken into this process; its path is one of the tree's.
  const owner = process.hostPid === ourPid ? ctx.processes[0]!.hostPid : process.hostPid;
  const all = ctx.shared('mountNamespaces', () => membersOf(ctx));
  const link = ctx.shared(`mountNamespaceOf:${owner}`, () => readLink(`/proc/${owner}/ns/mnt`));
  const own = { link, hostPid: all.get(link) ?? owner };
  if (all.size < 2) return own;
  const mounts = ctx.shared('mountNamespaceOfMount', () => mountsOf(all));
  const mount = /^mnt_id:\s*(\d+)/m.exec(info)?.[1];
  return (mount === undefined ? undefined : mounts.get(Number(mount))) ?? own;
}

/** Of each mount namespace of the tree a process in it; one with the namespace's root for its own where there is one. */
function membersOf(ctx: FileContext): Map<string, number> {
  const members = new Map<string, number>();
  const whole = new Set<string>();
  for (const { hostPid } of ctx.processes) {
    const link = linkOf(hostPid, 'ns/mnt');
    if (link === '' || whole.has(link)) continue;
    const isWhole = linkOf(hostPid, 'root') === '/';
    if (isWhole) whole.add(link);
    if (isWhole || !members.has(link)) members.set(link, hostPid);
  }
  return members;
}

function mountsOf(namespaces: ReadonlyMap<string, number>) {
  const found = new Map<number, { link: string; hostPid: number }>();
  for (const [link, hostPid] of namespaces) {
    for (const line of (tryReadProc(`/proc/${hostPid}/mountinfo`) ?? '').split('\n')) {
      found.set(Number.parseInt(line, 10), { link, hostPid });
    }
  }
  return found;
}

function linkOf(hostPid: number, name: string): string {
  try {
    return readLink(`/proc/${hostPid}/${name}`);
  } catch {
    return ''; // it has ended
  }
}
