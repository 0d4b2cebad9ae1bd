import { readdirSync } from 'node:fs';
import type { Blocker } from '@ferry/core';
import type { Mount, Namespace, Process } from '@ferry/image';
import {
  call,
  cString,
  inNamespace,
  OwnedFd,
  readLink,
  readProc,
  readProcBytes,
  sys,
  threadsOf,
  tryReadProc,
} from '@ferry/linux';
import { mountQueues } from '../message-queues.js';
import { captureQueues, fleetingSegments } from '../sysv-ipc.js';
import { addedMounts, type GivenMount } from './added-mounts.js';
import { groupRoots } from './cgroups.js';
import { parseMountInfo } from './mountinfo.js';
import { captureMounts, type NamedNamespace, sharedMounts } from './mounts.js';
import { captureNetwork, givenNetworkRefusals, joinPeer, type Leading } from './network.js';
import { addedSettings, changedSettings } from './settings.js';

const TYPES = ['user', 'pid', 'time', 'cgroup', 'uts', 'ipc', 'net', 'mnt'] as const;
export type NamespaceType = (typeof TYPES)[number];
/** Types that a process below the root may have for itself. */
const NESTED: ReadonlySet<NamespaceType> = new Set<NamespaceType>([
  ...(['uts', 'ipc', 'net', 'mnt', 'pid', 'time', 'cgroup', 'user'] as const),
]);
/** Types that can be looked at without a process in them. */
const HELD: ReadonlySet<NamespaceType> = new Set<NamespaceType>(['uts', 'ipc', 'net']);
/** What a thread may have for itself: the names of /proc/PID/ns. */
const THREADS_OWN = ['net', 'mnt', 'uts', 'ipc', 'cgroup'] as const;
const NS_GET_USERNS = 0xb701;
const NS_GET_PARENT = 0xb702;
const NS_GET_OWNER_UID = 0xb704;
const NS_GET_PID_FROM_PIDNS = 0x8004b706;
const ESRCH = 3;
const NS = 1_000_000_000n;

export interface NamespaceProcess {
  readonly hostPid: number;
  readonly command: string;
}

/** A namespace that something of the tree keeps, whether or not a process is in it. */
export interface HeldNamespace {
  readonly type: NamespaceType;
  /** "net:[4026531840]" */
  readonly link: string;
  /** A way to it for us. */
  readonly path: string;
  readonly process: NamespaceProcess;
  /** What keeps it, for blockers. */
  readonly object: string;
}

export interface NamespaceOptions {
  /** The scan before the freeze: content is not read. */
  readonly scanning: boolean;
  /** The namespaces of the root are made by whoever restores (a container's runtime), and not carried. */
  readonly rootGiven: boolean;
  /** Then: what is mounted by them; undefined: not known, and not checked. */
  readonly givenMounts?: readonly GivenMount[] | undefined;
  /** Likewise what is set below /proc/sys, by path ("net/ipv4/ip_forward"). */
  readonly givenSettings?: Readonly<Record<string, string>> | undefined;
  readonly held: readonly HeldNamespace[];
  /** Names of tun and tap devices that come with descriptors of the tree. */
  readonly tunDevices: ReadonlySet<string>;
}

export interface CapturedNamespaces {
  readonly namespaces: Namespace[];
  readonly blockers: Blocker[];
  /** The carried namespaces that a process and its next children are in. */
  of(hostPid: number): MemberOf;
  /** The id of a namespace ("net:[4026531840]"): 0 for the root's, undefined for one that is not carried. */
  idOf(link: string): number | undefined;
}

export type MemberOf = Pick<
  Process,
  'namespaceIds' | 'childrenPidNamespace' | 'childrenTimeNamespace'
>;

type Found = Omit<Blocker, 'pid' | 'command'>;

/** Where a namespace is looked at. */
interface Place {
  readonly type: NamespaceType;
  readonly link: string;
  readonly process: NamespaceProcess;
  /** A way to it; undefined: that of the process. */
  readonly path?: string;
}

/** Every namespace that processes of the tree (the root first) are in, or keep, and whoever captures is not in. */
export function captureNamespaces(
  processes: readonly NamespaceProcess[],
  options: NamespaceOptions,
): CapturedNamespaces {
  return new NamespaceCapture(processes, options).run();
}

class NamespaceCapture {
  readonly #processes: readonly NamespaceProcess[];
  readonly #options: NamespaceOptions;
  readonly #root: NamespaceProcess;
  readonly #blockers: Blocker[] = [];
  readonly #known = new Map<string, Namespace>();
  /** Names that mounts give to namespaces. */
  readonly #named: (NamedNamespace & { process: NamespaceProcess })[] = [];
  /** Nested namespaces, of which the owner is to be found. */
  readonly #owners: { namespace: Namespace; place: Place & { path: string } }[] = [];
  /** Mounts of proc, and the PID namespaces whose processes they show. */
  readonly #leading: (Leading & { namespace: Namespace; process: NamespaceProcess })[] = [];
  readonly #shows: { mount: Mount; space: string; process: NamespaceProcess }[] = [];
  /** Names of the PID namespaces that nested ones are in. */
  readonly #parents = new Map<number, string>();
  readonly #rootLinks: ReadonlyMap<NamespaceType, string>;
  readonly #ourLinks = new Map(TYPES.map((type) => [type, linkOf('self', type)]));

  readonly #links = new Map<string, string>();

  constructor(processes: readonly NamespaceProcess[], options: NamespaceOptions) {
    this.#processes = processes;
    this.#options = options;
    this.#root = processes[0]!;
    this.#rootLinks = new Map(TYPES.map((type) => [type, this.#linkOf(this.#root.hostPid, type)]));
  }

  run(): CapturedNamespaces {
    const members = new Map<number, number[]>();
    const births = new Map<number, Omit<MemberOf, 'namespaceIds'>>();
    for (const process of this.#processes) members.set(process.hostPid, this.#membership(process));
    for (const process of this.#processes) births.set(process.hostPid, this.#forChildren(process));
    for (const held of this.#options.held) this.#hold(held);
    this.#checkRootUser();
    if (this.#options.scanning) for (const process of this.#processes) this.#checkThreads(process);
    this.#findParents();
    this.#joinPeers();
    this.#findOwners();
    this.#findShown();
    this.#checkGivenNetwork();
    this.#checkGivenMounts();
    this.#checkGivenSettings();
    this.#checkSegments();
    for (const found of sharedMounts([...this.#known.values()], this.#isNested)) {
      this.#block(this.#root, found);
    }
    const rootLinks = new Set(this.#rootLinks.values());
    return {
      namespaces: [...this.#known.values()],
      blockers: this.#blockers,
      of: (hostPid) => ({
        namespaceIds: members.get(hostPid) ?? [],
        childrenPidNamespace: 0,
        childrenTimeNamespace: 0,
        ...births.get(hostPid),
      }),
      idOf: (link) => (rootLinks.has(link) ? 0 : this.#known.get(link)?.id),
    };
  }

  /** As linkOf; asked for once each. */
  #linkOf(hostPid: number | string, name: string): string {
    const key = `${hostPid} ${name}`;
    let link = this.#links.get(key);
    if (link === undefined) {
      link = linkOf(hostPid, name);
      this.#links.set(key, link);
    }
    return link;
  }

  #membership(process: NamespaceProcess): number[] {
    const ids: number[] = [];
    for (const type of TYPES) {
      const link = this.#linkOf(process.hostPid, type);
      if (link === '') continue;
      const ofRoot = link === this.#rootLinks.get(type);
      const ours = link === this.#ourLinks.get(type);
      if (ofRoot && (ours || this.#options.rootGiven)) continue;
      if (ours) {
        this.#block(process, outsideBlocker(type, link));
        continue;
      }
      if (!ofRoot && !NESTED.has(type)) this.#block(process, nestedBlocker(type, link));
      else ids.push(this.#capture({ type, link, process }).id);
    }
    return ids;
  }

  /** unshare(2) of these types changes where children are born, not where the process is. */
  #forChildren(process: NamespaceProcess): Omit<MemberOf, 'namespaceIds'> {
    return {
      childrenPidNamespace: this.#pidForChildren(process),
      childrenTimeNamespace: this.#timeForChildren(process),
    };
  }

  #pidForChildren(process: NamespaceProcess): number {
    const link = this.#linkOf(process.hostPid, 'pid_for_children');
    // A PID namespace has no name before its first process is born (kernel/pid_namespace.c: pidns_for_children_get).
    const isUnborn =
      link === '' && this.#linkOf('self', 'pid_for_children') !== '' && isLiving(process);
    if (link === this.#linkOf(process.hostPid, 'pid') || (link === '' && !isUnborn)) {
      return 0;
    }
    const known = this.#known.get(isUnborn ? `unborn of ${process.hostPid}` : link);
    return known?.id ?? this.#emptyPidNamespace(process, link);
  }

  /** One that no process of the tree is in: its first one is not born yet, or has ended. */
  #emptyPidNamespace(process: NamespaceProcess, link: string): number {
    const path = `/proc/${process.hostPid}/ns/pid_for_children`;
    if (link !== '' && !isOver(path)) {
      this.#block(process, {
        ...outsideBlocker('pid', link),
        object: `pid namespace ${link} for its children`,
        reason: 'its first process is outside the tree',
      });
    }
    const id = this.#known.size + 1;
    this.#known.set(
      link === '' ? `unborn of ${process.hostPid}` : link,
      emptyNamespace(id, 'pid', link),
    );
    return id;
  }

  #timeForChildren(process: NamespaceProcess): number {
    const link = this.#linkOf(process.hostPid, 'time_for_children');
    if (link === '' || link === this.#linkOf(process.hostPid, 'time')) return 0;
    const path = `/proc/${process.hostPid}/ns/time_for_children`;
    const { id } = this.#capture({ type: 'time', link, process, path });
    const isNested = this.#linkOf(process.hostPid, 'time') !== this.#rootLinks.get('time');
    const isAlone = threadsOf(process.hostPid).length === 1;
    if (link === this.#rootLinks.get('time') || isNested || !isAlone) {
      this.#block(process, {
        code: 'namespace.time',
        object: `time namespace ${link} for its children`,
        reason: isAlone
          ? 'a process in a nested time namespace has left it for its children'
          : 'a process with several threads has made it',
        remedy: 'make it in a process of its own, which is in no other',
      });
    }
    return id;
  }

  /** Whoever restores mounts what the configuration says: what the container has added would be gone. */
  #checkGivenMounts(): void {
    const { rootGiven, givenMounts } = this.#options;
    if (!rootGiven || givenMounts === undefined) return;
    if (this.#rootLinks.get('mnt') === this.#ourLinks.get('mnt')) return;
    const lines = parseMountInfo(readProc(`/proc/${this.#root.hostPid}/mountinfo`));
    for (const { mountpoint, type } of addedMounts(lines, givenMounts)) {
      this.#block(this.#root, {
        code: 'mount.added',
        object: `mount at ${mountpoint} (${type})`,
        reason: 'it was made inside the container, whose mounts its host makes anew',
        remedy: `unmount it (umount ${mountpoint}), or give it in the container's spec`,
      });
    }
  }

  /** There are thousands: they are read in a scan alone. */
  #checkGivenSettings(): void {
    const { rootGiven, givenSettings, scanning } = this.#options;
    if (!rootGiven || !scanning || givenSettings === undefined) return;
    for (const type of ['net', 'ipc'] as const) {
      const link = this.#rootLinks.get(type) ?? '';
      if (link === '' || link === this.#ourLinks.get(type)) continue;
      const changed = changedSettings(type, `/proc/${this.#root.hostPid}/ns/${type}`);
      for (const found of addedSettings(changed, givenSettings)) this.#block(this.#root, found);
    }
  }

  /** Segments of the tree's own IPC namespace are carried with whatever has them attached. */
  #checkSegments(): void {
    const link = this.#rootLinks.get('ipc') ?? '';
    if (link === '' || link === this.#ourLinks.get('ipc')) return;
    const path = `/proc/${this.#root.hostPid}/ns/ipc`;
    for (const id of inNamespace('ipc', path, fleetingSegments)) {
      this.#block(this.#root, {
        code: 'ipc.fleetingSegment',
        object: `System V segment ${id}`,
        reason:
          'nobody has it attached, and with kernel.shm_rmid_forced it would go once it was read',
        remedy: `attach it in the program, remove it (ipcrm -m ${id}), or set kernel.shm_rmid_forced to 0`,
      });
    }
  }

  #findParents(): void {
    if (this.#parents.size === 0) return;
    const inits = new Set(
      this.#processes
        .filter(({ hostPid }) =>
          /^NSpid:.*\s1$/m.test(tryReadProc(`/proc/${hostPid}/status`) ?? ''),
        )
        .map(({ hostPid }) => this.#linkOf(hostPid, 'pid')),
    );
    for (const [link, namespace] of this.#known) {
      const parent = this.#parents.get(namespace.id);
      if (parent === undefined) continue;
      const known = this.#known.get(parent);
      namespace.parentId = known?.id ?? 0;
      const isInside = known !== undefined || parent === this.#rootLinks.get('pid');
      if (namespace.type !== 'pid') continue;
      if (isInside && inits.has(link)) continue;
      this.#block(this.#root, {
        ...outsideBlocker('pid', link),
        reason: isInside
          ? 'processes of the tree are in it, but its first process is outside the tree'
          : `it is nested in ${parent}, in which the tree has no process`,
      });
    }
  }

  /** Veth pairs between carried network namespaces; what leads elsewhere is refused. */
  #joinPeers(): void {
    const networks = [...this.#known.values()].flatMap(({ id, content }) =>
      content?.$case === 'net' ? [{ id, content: content.value }] : [],
    );
    for (const { namespace, process, ...leading } of this.#leading) {
      const own = networks.find(({ id }) => id === namespace.id);
      if (own !== undefined && joinPeer(own, leading, networks)) continue;
      this.#block(process, leading.refusal);
    }
  }

  #findOwners(): void {
    const ofRoot = relativeOf(`/proc/${this.#root.hostPid}/ns/net`, NS_GET_USERNS);
    for (const { namespace, place } of this.#owners) {
      if (namespace.type === 'user') {
        this.#checkUser(namespace, place);
        continue;
      }
      const owner = relativeOf(place.path, NS_GET_USERNS);
      const known = this.#known.get(owner);
      namespace.ownerId = known?.id ?? 0;
      const isCarried = known !== undefined && namespace.type !== 'pid';
      if (isCarried || owner === this.#rootLinks.get('user') || owner === ofRoot) continue;
      this.#block(place.process, {
        ...nestedBlocker(place.type, place.link),
        reason: 'one that belongs to a nested user namespace is not carried yet',
        ...(namespace.type === 'pid' && {
          remedy: 'make it before the user namespace (unshare --pid --fork unshare --user)',
        }),
      });
    }
    for (const process of this.#processes) {
      const user = this.#known.get(this.#linkOf(process.hostPid, 'user'));
      if (user === undefined || !isLiving(process)) continue;
      if (this.#linkOf(process.hostPid, 'user') === this.#rootLinks.get('user')) continue;
      if (threadsOf(process.hostPid).length === 1) continue;
      this.#block(process, {
        ...nestedBlocker('user', this.#linkOf(process.hostPid, 'user')),
        reason: 'threads in a nested user namespace would get other numbers than they have',
      });
    }
  }

  /** The root is born in its user namespace: of there no number can be given in a PID namespace outside. */
  #checkRootUser(): void {
    const link = this.#rootLinks.get('user') ?? '';
    if (this.#options.rootGiven || link === this.#ourLinks.get('user')) return;
    if (this.#rootLinks.get('pid') !== this.#ourLinks.get('pid')) return;
    const tasks = this.#processes.reduce(
      (sum, p) => sum + namesIn(`/proc/${p.hostPid}/task`).length,
      0,
    );
    if (tasks < 2) return;
    this.#block(this.#root, {
      ...nestedBlocker('user', link),
      reason:
        'the root of the tree is in it, and the other tasks would get other numbers than they have',
      remedy: 'run it in a PID namespace of its own as well (unshare --pid --fork)',
    });
  }

  /** setns(2) and unshare(2) are about one thread; only what the first one is in is carried. Looked at in a scan alone:
   *  a process may have thousands. */
  #checkThreads(process: NamespaceProcess): void {
    const tasks = namesIn(`/proc/${process.hostPid}/task`).filter(
      (tid) => Number(tid) !== process.hostPid,
    );
    for (const tid of tasks) {
      const task = `${process.hostPid}/task/${tid}`;
      for (const name of THREADS_OWN) {
        const link = this.#linkOf(task, name);
        if (link === '' || link === this.#linkOf(process.hostPid, name)) continue;
        this.#block(process, {
          code: 'namespace.thread',
          object: `thread ${tid} in ${link}`,
          reason:
            'its process is in another namespace of that type, and threads apart are not carried',
          remedy: 'let a process of its own do what needs that namespace',
        });
      }
    }
  }

  /** Maps are written by whoever is in the namespace above, in its numbers. */
  #checkUser(namespace: Namespace, { process, link, type }: Place): void {
    const isOurs = this.#rootLinks.get('user') === this.#ourLinks.get('user');
    if (isOurs && this.#parents.get(namespace.id) === this.#rootLinks.get('user')) return;
    this.#block(process, {
      ...nestedBlocker(type, link),
      reason: 'user namespaces nested in one that is not of whoever captures are not carried yet',
    });
  }

  #findShown(): void {
    for (const { link, mountpoint, isOwn, process } of this.#named) {
      const isUsed = this.#known.has(link) || [...this.#rootLinks.values()].includes(link);
      if (isUsed || isOwn) this.#block(process, namedBlocker({ link, mountpoint, isUsed }));
    }
    const usual = new Set([this.#rootLinks.get('pid'), this.#ourLinks.get('pid')]);
    for (const { mount, space, process } of this.#shows) {
      mount.pidNamespaceId = this.#known.get(space)?.id ?? 0;
      if (usual.has(space)) mount.pidNamespaceId = 0;
      else if (mount.pidNamespaceId === 0) {
        this.#block(process, {
          code: 'mount.proc',
          object: `mount at ${mount.mountpoint}`,
          reason: `it shows the processes of ${space}, in which the tree has none`,
          remedy: 'unmount it, or mount a proc of its own there',
        });
      }
    }
  }

  /** Whoever restores makes the root's network anew: what the tree has added to it would be gone. */
  #checkGivenNetwork(): void {
    const link = this.#rootLinks.get('net') ?? '';
    if (!this.#options.rootGiven || link === this.#ourLinks.get('net') || link === '') return;
    const path = `/proc/${this.#root.hostPid}/ns/net`;
    for (const found of givenNetworkRefusals(path, this.#options.tunDevices)) {
      this.#block(this.#root, found);
    }
  }

  #hold(held: HeldNamespace): void {
    const { type, link, process, object } = held;
    const given = [this.#rootLinks.get(type), this.#known.has(link) ? link : ''];
    if (given.includes(link)) return;
    if (link === this.#ourLinks.get(type)) {
      this.#block(process, { ...outsideBlocker(type, link), object });
    } else if (!HELD.has(type)) this.#block(process, { ...nestedBlocker(type, link), object });
    else this.#capture(held);
  }

  #block({ hostPid, command }: NamespaceProcess, found: Found): void {
    this.#blockers.push({ ...found, pid: hostPid, command });
  }

  #capture(place: Place): Namespace {
    const { type, link, process } = place;
    const known = this.#known.get(link);
    if (known !== undefined) return known;
    const path = place.path ?? `/proc/${process.hostPid}/ns/${type}`;
    const nested = link !== this.#rootLinks.get(type);
    const id = this.#known.size + 1;
    const namespace = this.#describe(id, { ...place, path, nested });
    this.#known.set(link, namespace);
    const hasParent = type === 'pid' || type === 'user';
    if (nested && hasParent) this.#parents.set(id, relativeOf(path, NS_GET_PARENT));
    if (nested) this.#owners.push({ namespace, place: { ...place, path } });
    return namespace;
  }

  #describe(id: number, place: Place & { path: string; nested: boolean }): Namespace {
    const { type, link, path, nested, process } = place;
    const { hostPid } = process;
    const refuse = (refusals: readonly Found[]): void => {
      for (const refusal of refusals) this.#block(process, refusal);
    };
    const namespace = emptyNamespace(id, type, link);
    if (type === 'uts') {
      const read = (name: string): Buffer => trimmed(readProcBytes(`/proc/sys/kernel/${name}`));
      const value = inNamespace('uts', path, () => ({
        hostname: read('hostname'),
        domainname: read('domainname'),
      }));
      namespace.content = { $case: 'uts', value };
    }
    if (type === 'user') {
      const value = {
        uidMap: readProcBytes(`/proc/${hostPid}/uid_map`),
        gidMap: readProcBytes(`/proc/${hostPid}/gid_map`),
        denySetgroups: (tryReadProc(`/proc/${hostPid}/setgroups`) ?? '').startsWith('deny'),
        ownerUid: ownerUidOf(path),
      };
      namespace.content = { $case: 'user', value };
    }
    if (type === 'time') {
      // /proc/PID/timens_offsets is about the namespace for children, which for most is their own.
      const member = this.#processes.find(
        (p) => this.#linkOf(p.hostPid, 'time_for_children') === link,
      );
      if (member === undefined) refuse([outsideBlocker(type, link)]);
      else namespace.content = { $case: 'time', value: timeOffsets(member.hostPid) };
    }
    if (type === 'cgroup' && nested) {
      const roots = groupRoots(hostPid, path, this.#root.hostPid);
      if (roots !== undefined) namespace.content = { $case: 'cgroup', value: { roots } };
      else {
        refuse([
          {
            code: 'namespace.cgroup',
            object: `cgroup namespace ${link}`,
            reason: 'its process has left the control groups that it shows',
            remedy: 'move that process back into a group below those of its namespace',
          },
        ]);
      }
    }
    if (type === 'mnt') {
      const outsider = nested ? this.#root.hostPid : undefined;
      const member = this.#wholeMember(link) ?? hostPid;
      const { content, refusals, shows, named } = captureMounts(member, {
        ...this.#options,
        outsider,
        isUsed: (path) => this.#isUsed(link, path),
      });
      refuse(refusals);
      for (const [mount, space] of shows) this.#shows.push({ mount, space, process });
      for (const name of named) this.#named.push({ ...name, process });
      namespace.content = { $case: 'mnt', value: content };
    }
    if (type === 'net') {
      const outside = nested ? `/proc/${this.#root.hostPid}/ns/net` : '/proc/thread-self/ns/net';
      // What leads to a carried namespace of the root's would have to be made together with that.
      const rootIsCarried = [...this.#known.values()].some((other) => other.type === 'net');
      const { content, refusals, leading } = captureNetwork(path, {
        path: outside,
        isCarried: nested && rootIsCarried,
      });
      refuse(refusals);
      namespace.content = { $case: 'net', value: content };
      for (const each of leading) this.#leading.push({ ...each, namespace, process });
    }
    if (type === 'ipc' || type === 'net') namespace.settings = changedSettings(type, path);
    if (type === 'ipc' && nested) {
      refuse(inNamespace('ipc', path, () => nestedSegments(link)));
      if (!this.#options.scanning) {
        const value = inNamespace('ipc', path, () => {
          using mount = mountQueues();
          return captureQueues(mount);
        });
        namespace.content = { $case: 'ipc', value };
      }
    }
    return namespace;
  }

  readonly #isNested = ({ type, inode }: Namespace): boolean =>
    this.#rootLinks.get(type as NamespaceType) !== `${type}:[${inode}]`;

  /** Whether a process of a mount namespace has something below a path open, mapped or for its directory. */
  #isUsed(link: string, path: string): boolean {
    const isBelow = (name: string) => name === path || name.startsWith(`${path}/`);
    return this.#processes.some(({ hostPid }) => {
      if (this.#linkOf(hostPid, 'mnt') !== link) return false;
      const proc = `/proc/${hostPid}`;
      const maps = tryReadProc(`${proc}/maps`) ?? '';
      const links = ['cwd', 'root', ...namesIn(`${proc}/fd`).map((fd) => `fd/${fd}`)];
      return maps.includes(` ${path}/`) || links.some((name) => isBelow(pathOf(`${proc}/${name}`)));
    });
  }

  /** A process in a mount namespace that sees all of it, not confined to a directory. */
  #wholeMember(link: string): number | undefined {
    return this.#processes.find(
      ({ hostPid }) => this.#linkOf(hostPid, 'mnt') === link && isWhole(hostPid),
    )?.hostPid;
  }
}

function emptyNamespace(id: number, type: NamespaceType, link: string): Namespace {
  const inode = BigInt(/\d+/.exec(link)?.[0] ?? 0);
  return { id, type, inode, ownerId: 0, parentId: 0, content: undefined, settings: [] };
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function pathOf(link: string): string {
  try {
    return readLink(link);
  } catch {
    return '';
  }
}

function isWhole(hostPid: number): boolean {
  try {
    return readLink(`/proc/${hostPid}/root`) === '/';
  } catch {
    return false;
  }
}

/** A zombie is in no namespace of most types. */
function isLiving({ hostPid }: NamespaceProcess): boolean {
  return linkOf(hostPid, 'net') !== '';
}

function linkOf(hostPid: number | string, name: string): string {
  try {
    return readLink(`/proc/${hostPid}/ns/${name}`);
  } catch {
    return ''; // this kernel has no such namespaces, or the process is a zombie
  }
}

/** The namespace that another one belongs to, or is nested in (ioctl_ns(2)); '' when it is above ours. */
function relativeOf(path: string, which: typeof NS_GET_USERNS | typeof NS_GET_PARENT): string {
  const opened = sys('open', cString(path), 0o2000000, 0);
  if (opened < 0) return '';
  using fd = new OwnedFd(opened);
  const found = sys('ioctl', fd.number, which, 0);
  if (found < 0) return '';
  using other = new OwnedFd(found);
  return readLink(`/proc/self/fd/${other.number}`);
}

function ownerUidOf(path: string): number {
  using fd = new OwnedFd(call('open', cString(path), 0o2000000, 0));
  const uid = Buffer.alloc(4);
  return sys('ioctl', fd.number, NS_GET_OWNER_UID, uid) < 0 ? 0 : uid.readUInt32LE(0);
}

/** A PID namespace without processes, in which none can be born any more. */
function isOver(path: string): boolean {
  using fd = new OwnedFd(call('open', cString(path), 0o2000000, 0));
  return sys('ioctl', fd.number, NS_GET_PID_FROM_PIDNS, 1) === -ESRCH;
}

function outsideBlocker(type: string, link: string): Found {
  return {
    code: `namespace.${type}`,
    object: `${type} namespace ${link}`,
    reason: 'it is a namespace outside the tree, which the root of the tree has left',
    remedy: 'start the program after its parent has made its namespaces, or dump it by itself',
  };
}

function nestedBlocker(type: string, link: string): Found {
  return {
    code: `namespace.${type}`,
    object: `${type} namespace ${link}`,
    reason: 'namespaces of this type nested inside the tree are not carried yet',
    remedy: 'run that program without namespaces of its own, or in a container of its own',
  };
}

function namedBlocker(of: { link: string; mountpoint: string; isUsed: boolean }): Found {
  const { link, mountpoint, isUsed } = of;
  return {
    code: 'mount.namespace',
    object: `mount at ${mountpoint}`,
    reason: isUsed
      ? `it is a name of ${link} (ip netns add), which is not carried yet`
      : `it alone keeps ${link} (ip netns add) for the tree, which is not carried yet`,
    remedy: isUsed
      ? 'unmount it (ip netns del); the namespace lives on with its processes'
      : 'unmount it (ip netns del), and make it again afterwards',
  };
}

/** System V shared memory of a nested IPC namespace. */
function nestedSegments(link: string): Found[] {
  const [, ...rows] = readProc('/proc/sysvipc/shm').trim().split('\n');
  if (rows.length === 0) return [];
  return [
    {
      code: 'namespace.ipc',
      object: `ipc namespace ${link}: ${rows.length} segments of System V shared memory`,
      reason: 'those of a nested IPC namespace are not carried yet',
      remedy:
        'remove them (ipcrm -m), let the program use the IPC namespace of the tree, or POSIX shared ' +
        'memory (PostgreSQL: shared_memory_type=mmap)',
    },
  ];
}

function trimmed(text: Buffer): Buffer {
  return text.at(-1) === 10 ? text.subarray(0, -1) : text;
}

/** "monotonic -1 500000000\nboottime 0 0\n" */
function timeOffsets(hostPid: number): { monotonicNs: bigint; boottimeNs: bigint } {
  const text = readProc(`/proc/${hostPid}/timens_offsets`);
  const offset = (clock: string): bigint => {
    const found = new RegExp(`^${clock}\\s+(-?\\d+)\\s+(\\d+)`, 'm').exec(text);
    return BigInt(found?.[1] ?? 0) * NS + BigInt(found?.[2] ?? 0);
  };
  return { monotonicNs: offset('monotonic'), boottimeNs: offset('boottime') };
}
