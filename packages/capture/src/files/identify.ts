import { sys, sysError } from '@ferry/linux';
import type { Descriptor } from './context.js';

const KCMP_FILE = 0;
const S_IFMT = 0o170000;
const S_IFSOCK = 0o140000;

/** Groups descriptors by open file description. Each group is in the order of `descriptors`, and so are the groups
 *  by their first. kcmp(2) orders descriptions, so that n candidates take a sort, not n² comparisons; and only those
 *  that look alike are candidates. `scanning`: the processes run, so that a descriptor may be gone. */
export function groupByDescription(
  descriptors: readonly Descriptor[],
  scanning: boolean,
): Descriptor[][] {
  const buckets = new Map<string, number[]>();
  for (const [i, descriptor] of descriptors.entries()) {
    const key = likeness(descriptor);
    const bucket = buckets.get(key);
    if (bucket === undefined) buckets.set(key, [i]);
    else bucket.push(i);
  }
  const groups: number[][] = [];
  for (const bucket of buckets.values()) {
    const first = descriptors[bucket[0]!]!;
    // A socket has one description for life.
    if (bucket.length === 1 || isSocket(first)) groups.push(bucket);
    else groups.push(...splitBucket(bucket, descriptors, scanning));
  }
  groups.sort((a, b) => a[0]! - b[0]!);
  return groups.map((group) => group.map((i) => descriptors[i]!));
}

/** Whether two descriptors share their open file description. */
export function isSameDescription(a: Descriptor, b: Descriptor): boolean {
  if (a.fd < 0 || b.fd < 0) return false; // a folder that no descriptor refers to
  return likeness(a) === likeness(b) && compare(a, b, false) === 0;
}

/** What descriptors of one description have in common, as far as it can be seen without comparing them. */
function likeness(descriptor: Descriptor): string {
  const { stat, flags, position, link, info } = descriptor;
  if (isSocket(descriptor)) return `s${stat.inode}`;
  const kind = link.startsWith('anon_inode:') ? anonymousKey(link, info) : '';
  return `${stat.device}:${stat.inode}:${flags}:${position}:${kind}`;
}

/** All anonymous inodes are one inode: eventfds at least have numbers of their own. */
function anonymousKey(link: string, info: string): string {
  if (link !== 'anon_inode:[eventfd]') return link;
  const at = info.indexOf('eventfd-id:');
  return at < 0 ? link : info.slice(at, info.indexOf('\n', at));
}

function isSocket(descriptor: Descriptor): boolean {
  return (descriptor.stat.mode & S_IFMT) === S_IFSOCK;
}

function splitBucket(
  bucket: readonly number[],
  descriptors: readonly Descriptor[],
  scanning: boolean,
): number[][] {
  const sorted = [...bucket].sort((a, b) => compare(descriptors[a]!, descriptors[b]!, scanning));
  const groups: number[][] = [];
  let last: number | undefined;
  for (const i of sorted) {
    const isSame =
      last !== undefined && compare(descriptors[last]!, descriptors[i]!, scanning) === 0;
    if (isSame) groups.at(-1)!.push(i);
    else groups.push([i]);
    last = i;
  }
  for (const group of groups) group.sort((a, b) => a - b);
  return groups;
}

/** kcmp(2) answers 0 equal, 1 less, 2 greater. */
function compare(a: Descriptor, b: Descriptor, scanning: boolean): number {
  const result = sys('kcmp', a.process.hostPid, b.process.hostPid, KCMP_FILE, a.fd, b.fd);
  if (result >= 0 && result <= 2) return result === 1 ? -1 : result === 2 ? 1 : 0;
  if (scanning) return -1;
  throw sysError('kcmp', -result, `descriptor ${a.fd} of process ${a.process.hostPid}`);
}
