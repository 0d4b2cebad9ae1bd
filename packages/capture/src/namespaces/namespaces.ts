import type { Blocker } from '@ferry/core';
import type { Mount, Namespace, Process } from '@ferry/image';
import { inNamespace, threadsOf, tryReadProc } from '@ferry/linux';
import { groupRoots } from './cgroups.js';
import { addedToGiven, type GivenOptions, segmentsUnattached } from './given.js';
import {
  isLiving,
  isOver,
  isWhole,
  linkOf,
  type NamespaceProcess,
  type NamespaceType,
  namesIn,
  parentOf,
  pathOf,
  TYPES,
  userNamespaceOf,
} from './links.js';
import { captureMounts, type NamedNamespace, sharedMounts } from './mounts.js';
import { captureNetwork, joinPeer, type Leading, outerEnds } from './network.js';
import {
  type Found,
  namedBlocker,
  nestedBlocker,
  nestedSegments,
  outsideBlocker,
} from './refusals.js';
import { changedSettings } from './settings.js';
import { ipcContent, timeContent, userContent, utsContent } from './small-content.js';

/** Types that a process below the root may have for itself. */
const NESTED: ReadonlySet<NamespaceType> = new Set<NamespaceType>([
  ...(['uts', 'ipc', 'net', 'mnt', 'pid', 'time', 'cgroup', 'user'] as const),
]);
/** Types that can be looked at without a process in them. */
const HELD: ReadonlySet<NamespaceType> = new Set<NamespaceType>(['uts', 'ipc', 'net']);
/** What a thread may have for itself: the names of /proc/PID/ns. */
const THREADS_OWN = ['net', 'mnt', 'uts', 'ipc', 'cgroup'] as const;

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

export interface NamespaceOptions extends GivenOptions {
  readonly held: readonly HeldNamespace[];
}

export interface CapturedNamespaces {
  readonly namespaces: Namespace[];
  readonly blockers: Blocker[];
  /** What the tree has added to the namespaces of its root, and would be gone where whoever restores makes them anew. The
   *  image does not depend on it, and it takes as long as the rest of its namespaces. */
  added(): Blocker[];
  /** The carried namespaces that a process and its next children are in. */
  of(hostPid: number): MemberOf;
  /** The id of a namespace ("net:[4026531840]"): 0 for the root's, undefined for one that is not carried. */
  idOf(link: string): number | undefined;
}

export type MemberOf = Pick<
  Process,
  'namespaceIds' | 'childrenPidNamespace' | 'childrenTimeNamespace'
>;

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
    this.#checkSegments();
    for (const found of sharedMounts([...this.#known.values()], this.#isNested)) {
      this.#block(this.#root, found);
    }
    const rootLinks = new Set(this.#rootLinks.values());
    return {
      namespaces: [...this.#known.values()],
      blockers: this.#blockers,
      added: () => {
        const options = { ...this.#options, ends: outerEnds([...this.#known.values()]) };
        const found = addedToGiven(this.#root.hostPid, this.#isApart, options);
        return found.map((each) => blockerOf(this.#root, each));
      },
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

  #checkSegments(): void {
    if (!this.#isApart('ipc')) return;
    for (const found of segmentsUnattached(this.#root.hostPid)) this.#block(this.#root, found);
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
    const ofRoot = userNamespaceOf(`/proc/${this.#root.hostPid}/ns/net`);
    for (const { namespace, place } of this.#owners) {
      if (namespace.type === 'user') {
        this.#checkUser(namespace, place);
        continue;
      }
      const owner = userNamespaceOf(place.path);
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

  #hold(held: HeldNamespace): void {
    const { type, link, process, object } = held;
    const given = [this.#rootLinks.get(type), this.#known.has(link) ? link : ''];
    if (given.includes(link)) return;
    if (link === this.#ourLinks.get(type)) {
      this.#block(process, { ...outsideBlocker(type, link), object });
    } else if (!HELD.has(type)) this.#block(process, { ...nestedBlocker(type, link), object });
    else this.#capture(held);
  }

  #block(process: NamespaceProcess, found: Found): void {
    this.#blockers.push(blockerOf(process, found));
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
    if (nested && hasParent) this.#parents.set(id, parentOf(path));
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
    if (type === 'uts') namespace.content = utsContent(path);
    if (type === 'user') namespace.content = userContent(path, hostPid);
    if (type === 'time') {
      // /proc/PID/timens_offsets is about the namespace for children, which for most is their own.
      const member = this.#processes.find(
        (p) => this.#linkOf(p.hostPid, 'time_for_children') === link,
      );
      if (member === undefined) refuse([outsideBlocker(type, link)]);
      else namespace.content = timeContent(member.hostPid);
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
      if (!this.#options.scanning) namespace.content = ipcContent(path);
    }
    return namespace;
  }

  readonly #isApart = (type: NamespaceType): boolean => {
    const link = this.#rootLinks.get(type) ?? '';
    return link !== '' && link !== this.#ourLinks.get(type);
  };

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

function blockerOf({ hostPid, command }: NamespaceProcess, found: Found): Blocker {
  return { ...found, pid: hostPid, command };
}

function emptyNamespace(id: number, type: NamespaceType, link: string): Namespace {
  const inode = BigInt(/\d+/.exec(link)?.[0] ?? 0);
  return { id, type, inode, ownerId: 0, parentId: 0, content: undefined, settings: [] };
}
