import { existsSync, lstatSync, readdirSync, statSync } from 'node:fs';
import type { Mount, MountNamespace, Namespace } from '@ferry/image';
import { readLink, readProc } from '@ferry/linux';
import { isAutomount, isAutomounted, waitingMounts } from './automounts.js';
import { openAlone } from './covered.js';
import { attributesOf, type MountLine, parseMountInfo } from './mountinfo.js';
import { ownMounts } from './own-mounts.js';
import { contentSize, readTree } from './tree-content.js';

/** File systems that the kernel fills: a new one is as good. */
const FILLED_BY_KERNEL = new Set([
  ...['proc', 'sysfs', 'devpts', 'mqueue', 'cgroup', 'cgroup2', 'debugfs', 'tracefs'],
  ...['securityfs', 'binfmt_misc', 'configfs', 'fusectl', 'pstore', 'efivarfs', 'selinuxfs'],
]);
/** File systems that live in memory: their content is carried. */
const IN_MEMORY = new Set(['tmpfs', 'ramfs']);
/** File systems in memory whose files cannot be made by writing them: carried while they have none. */
const EMPTY = new Set(['hugetlbfs', 'bpf']);
/** What the kernel puts into them by itself (kernel/bpf/preload). */
const PRELOADED = new Set(['maps.debug', 'progs.debug']);
/** File systems whose content stays where it is: mounted again from there. */
const ELSEWHERE = new Set([
  ...['overlay', 'ext2', 'ext3', 'ext4', 'xfs', 'btrfs', 'vfat', 'iso9660', 'squashfs', 'erofs'],
]);
const CONTENT_MAX = 256n << 20n;
const DELETED = '//deleted';

/** The mounts of the namespace outside, and where its paths start for us. */
interface Outside {
  readonly lines: readonly MountLine[];
  readonly prefix: string;
  readonly hasAutomounts: boolean;
}

type Refusal = { code: string; object: string; reason: string; remedy: string };

export interface CapturedMounts {
  readonly content: MountNamespace;
  readonly refusals: Refusal[];
  /** Of mounts of proc, the PID namespace whose processes each shows. */
  readonly shows: Map<Mount, string>;
  /** Namespaces that have a name here alone (mounts of nsfs). */
  readonly named: readonly NamedNamespace[];
}

export interface NamedNamespace {
  /** "net:[4026531840]" */
  readonly link: string;
  readonly mountpoint: string;
  /** It was mounted in this mount namespace, and did not come from outside with it. */
  readonly isOwn: boolean;
}

/** The mounts of a process's namespace. In a scan the content of file systems in memory is only measured.
 *  @param options.outsider  a process in the namespace that this one is made from; undefined: this process
 *  @param options.isUsed  something of the tree is in what is mounted there */
export function captureMounts(
  hostPid: number,
  options: {
    scanning: boolean;
    outsider: number | undefined;
    isUsed: (mountpoint: string) => boolean;
  },
): CapturedMounts {
  const lines = parseMountInfo(readProc(`/proc/${hostPid}/mountinfo`));
  const outer = parseMountInfo(readProc(`/proc/${options.outsider ?? 'self'}/mountinfo`));
  const outside: Outside = {
    lines: outer,
    hasAutomounts: outer.some(isAutomount),
    prefix: options.outsider === undefined ? '' : `/proc/${options.outsider}/root`,
  };
  const root = lines.find((line) => !lines.some(({ id }) => id === line.parentId));
  const refusals: Refusal[] = [];
  if (root?.mountpoint !== '/') {
    refusals.push(
      refusal('/', 'the root of the namespace cannot be seen', 'leave the chroot first'),
    );
    return { content: { mounts: [] }, refusals, shows: new Map(), named: [] };
  }
  const waiting = waitingMounts(lines, outside.lines);
  // Nothing else is looked at: the way there may lead through them.
  if (waiting.length > 0) {
    refusals.push(...waiting.map(refuseWaiting));
    return { content: { mounts: [] }, refusals, shows: new Map(), named: [] };
  }
  const mounts: Mount[] = [];
  const shows = new Map<Mount, string>();
  const stale = new Set<number>();
  const named: NamedNamespace[] = [];
  const own = ownMounts(lines, outside.lines);
  const first = new Set<bigint>();
  for (const line of [root, ...lines.filter((candidate) => candidate !== root)]) {
    const mount = describe(line, outside, hostPid);
    if (mount.outerPath === '' && isStale(line, [outside.prefix, `/proc/${hostPid}/root`])) {
      if (!options.isUsed(line.mountpoint)) {
        stale.add(line.id);
        continue;
      }
      const reason = 'the directories that it is made of are gone outside';
      refusals.push(refusal(line.mountpoint, reason, 'close what is open there', 'mount.stale'));
    }
    if (stale.has(line.parentId)) {
      stale.add(line.id);
      continue;
    }
    // One from outside is mostly one that whoever gave it has taken away since, and that names nothing in the tree.
    if (line.type === 'nsfs' && mount.outerPath === '') {
      named.push({ link: line.root, mountpoint: line.mountpoint, isOwn: own.has(line.id) });
      continue;
    }
    const found = refuse(mount, line, hostPid);
    if (found !== undefined) refusals.push(found);
    if (mount.deleted && mount.file)
      refusals.push(...keepDeleted(mount, line, options.scanning, hostPid));
    const fresh = mount.outerPath === '' && !first.has(line.device);
    if (fresh) first.add(line.device);
    if (fresh && line.root !== '/') {
      const reason = `only a part of its file system (${line.root}) is mounted, by no mount of the whole`;
      refusals.push(refusal(line.mountpoint, reason, 'mount the whole first', 'mount.part'));
    }
    if (fresh && IN_MEMORY.has(line.type)) {
      refusals.push(...fill(mount, line, lines, { hostPid, scanning: options.scanning }));
    }
    const shown = fresh && line.type === 'proc' ? shownBy(hostPid, line) : undefined;
    if (shown !== undefined) shows.set(mount, shown);
    mounts.push(mount);
  }
  return { content: { mounts }, refusals, shows, named };
}

/** What nested mount namespaces have in common that is not in the root's: each is made by itself, from the root's. */
export function sharedMounts(
  namespaces: readonly Namespace[],
  isNested: (namespace: Namespace) => boolean,
): Refusal[] {
  const devices = new Map<bigint, number>();
  const groups = new Map<number, number>();
  const found: Refusal[] = [];
  for (const namespace of namespaces) {
    if (namespace.content?.$case !== 'mnt' || !isNested(namespace)) continue;
    const { id, content } = namespace;
    for (const mount of content.value.mounts) {
      const { device, type, mountpoint, outerPath, outerPeerPath } = mount;
      const group = mount.sharedGroup || mount.masterGroup;
      const isOwn = outerPath === '' && !FILLED_BY_KERNEL.has(type);
      const other =
        (isOwn ? devices.get(device) : undefined) ??
        (outerPeerPath === '' ? groups.get(group) : undefined);
      if (other !== undefined && other !== id) {
        const reason = 'two nested mount namespaces share it, which is not carried yet';
        const remedy = 'mount it before the first of them is made, or unmount it in one';
        found.push(refusal(mountpoint, reason, remedy, 'mount.sharedNested'));
      }
      if (isOwn && !devices.has(device)) devices.set(device, id);
      if (group !== 0 && outerPeerPath === '' && !groups.has(group)) groups.set(group, id);
    }
  }
  return found;
}

function describe(line: MountLine, outside: Outside, hostPid: number): Mount {
  const deleted = line.root.endsWith(DELETED);
  const root = deleted ? line.root.slice(0, -DELETED.length) : line.root;
  const outer = outerPathOf({ ...line, root }, outside, deleted);
  const group = line.master === 0 ? line.shared : line.master;
  const peer =
    group === 0
      ? undefined
      : outside.lines.find(
          (other) =>
            other.shared === group &&
            isSeen(other.mountpoint, other, outside) &&
            contains(other, line),
        );
  return {
    id: line.id,
    parentId: line.parentId,
    device: line.device,
    root,
    mountpoint: line.mountpoint,
    attributes: attributesOf(line),
    sharedGroup: line.shared,
    masterGroup: line.master,
    unbindable: line.unbindable,
    type: line.type,
    source: line.source === 'none' ? '' : line.source,
    options: line.options,
    outerPath: outer?.path ?? '',
    outerCovers: outer?.covers ?? 0,
    outerPeerPath: peer?.mountpoint ?? '',
    file: !isAutomount(line) && isFile(`/proc/${hostPid}/root${line.mountpoint}`),
    content: [],
    deleted,
    pidNamespaceId: 0,
  };
}

function contains(outer: MountLine, inner: { device: bigint; root: string }): boolean {
  if (outer.device !== inner.device) return false;
  return outer.root === '/' || inner.root === outer.root || inner.root.startsWith(`${outer.root}/`);
}

/** Where the same directory of the same file system is mounted for whoever captures: visible, else hidden by mounts on
 *  the very same spot. */
function outerPathOf(
  line: MountLine,
  outside: Outside,
  deleted: boolean,
): { path: string; covers: number } | undefined {
  const { lines } = outside;
  // What the kernel fills is often one file system however often it is mounted, and a copy of a mount has that one's source.
  const isCopyOf = (outer: MountLine): boolean =>
    outer.source === line.source || line.root !== '/' || !FILLED_BY_KERNEL.has(line.type);
  const candidates = lines.filter((outer) => contains(outer, line) && isCopyOf(outer));
  const pathBelow = (outer: MountLine): string => {
    const below = outer.root === '/' ? line.root : line.root.slice(outer.root.length);
    const path = `${outer.mountpoint === '/' ? '' : outer.mountpoint}${below === '/' ? '' : below}`;
    return path === '' ? '/' : path;
  };
  for (const outer of candidates) {
    const path = pathBelow(outer);
    if (deleted || isSeen(path, line, outside)) return { path, covers: 0 };
  }
  for (const outer of candidates) {
    let top = outer;
    let covers = 0;
    for (;;) {
      const next = lines.find(
        ({ parentId, mountpoint }) => parentId === top.id && mountpoint === outer.mountpoint,
      );
      if (next === undefined) break;
      top = next;
      covers++;
    }
    if (covers > 0 && isSeen(outer.mountpoint, top, outside))
      return { path: pathBelow(outer), covers };
  }
  return undefined;
}

/** Likewise, in the namespace outside. */
function isSeen(path: string, mount: { device: bigint }, outside: Outside): boolean {
  if (outside.hasAutomounts && isAutomounted(path, outside.lines)) return false;
  return isVisible(outside.prefix + path, mount);
}

/** Nothing else is mounted over it. */
function isVisible(path: string, { device }: { device: bigint }): boolean {
  try {
    return lstatSync(path, { bigint: true }).dev === device;
  } catch {
    return false;
  }
}

function isFile(path: string): boolean {
  try {
    return !statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** A directory that it is made of is gone from where it is mounted again, outside or in the namespace: whoever had mounted
 *  it outside has taken it away, and only a copy of the mount is left. */
function isStale({ type, options }: MountLine, prefixes: readonly string[]): boolean {
  if (type !== 'overlay') return false;
  const folders = [...options.matchAll(/(?:^|,)(?:lowerdir\+?|upperdir)=((?:[^,\\]|\\.)*)/g)];
  return folders
    .flatMap(([, text = '']) => text.split(/(?<!\\):+/))
    .map((path) => path.replace(/\\(.)/g, '$1'))
    .some((path) => path.startsWith('/') && !prefixes.some((prefix) => existsSync(prefix + path)));
}

/** A PID namespace by the first process that a mounted proc shows; undefined when that cannot be seen. */
function shownBy(hostPid: number, line: MountLine): string | undefined {
  const path = `/proc/${hostPid}/root${line.mountpoint}`;
  try {
    return isVisible(path, line) ? readLink(`${path}/1/ns/pid`) : undefined;
  } catch {
    return undefined;
  }
}

function refusal(
  mountpoint: string,
  reason: string,
  remedy: string,
  code = 'mount.hidden',
): Refusal {
  return { code, object: `mount at ${mountpoint}`, reason, remedy };
}

function refuseWaiting({ mountpoint }: MountLine): Refusal {
  const reason = 'it stands for a mount (autofs) that is made when somebody looks at it';
  const remedy = `unmount it (umount ${mountpoint}); where it is mounted outside too, use it there first`;
  return refusal(mountpoint, reason, remedy, 'mount.automount');
}

function refuse(mount: Mount, line: MountLine, hostPid: number): Refusal | undefined {
  if (line.flags.includes('idmapped')) {
    const reason = 'a mount with id mappings of its own cannot be carried yet';
    return refusal(
      line.mountpoint,
      reason,
      'unmount it, or mount it without them',
      'mount.idmapped',
    );
  }
  if (mount.outerPath !== '') return undefined;
  const known = [FILLED_BY_KERNEL, IN_MEMORY, ELSEWHERE].some((kinds) => kinds.has(line.type));
  if (known) return undefined;
  if (EMPTY.has(line.type)) {
    if (isEmpty(`/proc/${hostPid}/root${line.mountpoint}`, line)) return undefined;
    const reason = `there are files in a file system of type ${line.type}, which cannot be carried`;
    return refusal(line.mountpoint, reason, 'remove them, or unmount it', 'mount.fileSystem');
  }
  return refusal(
    line.mountpoint,
    `a file system of type ${line.type} that is only mounted here cannot be carried`,
    'unmount it first, or mount it outside too',
    'mount.fileSystem',
  );
}

function isEmpty(path: string, line: MountLine): boolean {
  return isVisible(path, line) && readdirSync(path).every((name) => PRELOADED.has(name));
}

/** What is in a file that was deleted after it was mounted. */
function keepDeleted(mount: Mount, line: MountLine, scanning: boolean, hostPid: number): Refusal[] {
  const path = `/proc/${hostPid}/root${line.mountpoint}`;
  if (!isVisible(path, line)) return [];
  if (contentSize(path) > CONTENT_MAX) {
    const reason = 'the file has no name any more, and holds more than is carried';
    return [refusal(line.mountpoint, reason, 'unmount it, or empty it', 'mount.tooLarge')];
  }
  if (!scanning) mount.content = readTree(path);
  return [];
}

function fill(
  mount: Mount,
  line: MountLine,
  lines: readonly MountLine[],
  options: { hostPid: number; scanning: boolean },
): Refusal[] {
  const visible = lines.find(
    ({ device, root, mountpoint }) =>
      device === line.device &&
      root === '/' &&
      isVisible(`/proc/${options.hostPid}/root${mountpoint}`, line),
  );
  const whole = visible ?? lines.find(({ device, root }) => device === line.device && root === '/');
  // What is below mounts on it belongs to it too.
  const isCovered = visible === undefined || lines.some(({ parentId }) => parentId === visible.id);
  using alone = whole && isCovered ? openAlone(options.hostPid, lines, whole) : undefined;
  if (visible === undefined && alone === undefined) {
    const reason = 'its content cannot be seen: another mount covers it';
    return [refusal(line.mountpoint, reason, 'unmount what is mounted over it')];
  }
  const top =
    alone === undefined
      ? `/proc/${options.hostPid}/root${visible!.mountpoint === '/' ? '' : visible!.mountpoint}/.`
      : `/proc/self/fd/${alone.number}/.`;
  const bytes = contentSize(top);
  if (bytes > CONTENT_MAX) {
    const reason = `its files hold ${bytes >> 20n} MiB, more than the ${CONTENT_MAX >> 20n} MiB that are carried`;
    return [refusal(line.mountpoint, reason, 'mount it outside, or empty it', 'mount.tooLarge')];
  }
  if (!options.scanning) mount.content = readTree(top);
  return [];
}
