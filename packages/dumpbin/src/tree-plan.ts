import { FerryError } from '@ferry/core';
import type { Process, TreeImage } from '@ferry/image';
import { initOf, pidSpaceOf } from './namespaces/pid-spaces.js';

const SIGCHLD = 17;

/** How a process comes to its parent and its session, which clone(2) hands down from whoever calls it:
 *  - `child`: made by its parent, in the session that the parent ends up in;
 *  - `early`: made by its parent before that makes a session of its own;
 *  - `sibling`: made with CLONE_PARENT by a child of its parent that leads its session (or by a stand-in for one);
 *  - `orphan`: made by a child of `maker` that ends at once, with the PID `between`: its parent becomes the nearest
 *    subreaper. */
export type Making =
  | { readonly kind: 'child' | 'early' }
  | { readonly kind: 'sibling'; readonly maker: number }
  | { readonly kind: 'orphan'; readonly maker: number; readonly between: number };

/** Who makes whom, so that every process ends up with its parent, session and group. */
export interface TreeMaking {
  makingOf(pid: number): Making;
  /** Sessions whose leader is gone, by the process whose child stands in for it. */
  standInsOf(parent: number): readonly number[];
  /** Groups whose leader is gone, by the first member, whose child stands in for it. */
  groupsHeldBy(pid: number): readonly number[];
  /** Processes that must be subreapers while the tree is made. */
  readonly adopters: ReadonlySet<number>;
  /** Groups that their first process has left: it leads them until everybody has joined. */
  readonly left: ReadonlySet<number>;
  /** Processes that `maker` (or the stand-in with that PID) makes for others. */
  madeBy(maker: number): readonly Process[];
  /** Children that must be made when their parent leads its group already: what is below them is in it, in PID namespaces
   *  that do not show it, so that it cannot be joined. */
  readonly groupIsInherited: ReadonlySet<number>;
  /** First processes of PID namespaces that others have children in. */
  readonly hosts: ReadonlySet<number>;
  /** Stand-ins for the leaders of sessions. */
  readonly standInCount: number;
}

/** Plans the making of a tree. Pure.
 *  @throws FerryError dumpbin.session for an order that no sequence of clone(2) gives */
export function planTree(image: TreeImage): TreeMaking {
  return new Planner(image).plan();
}

class Planner {
  readonly #image: TreeImage;
  readonly #byPid: ReadonlyMap<number, Process>;
  readonly #root: Process;
  readonly #makings = new Map<number, Making>();
  readonly #standIns = new Map<number, number[]>();
  readonly #adopters = new Set<number>();
  readonly #births = new Map<number, number | undefined>();

  /** A PID that no process of the tree has; counted up. */
  #spare: number;

  constructor(image: TreeImage) {
    this.#image = image;
    const used = image.processes.flatMap(({ pid, pgid, sid, threads }) => [
      ...[pid, pgid, sid],
      ...threads.map(({ tid }) => tid),
    ]);
    this.#spare = Math.max(...used) + 1;
    this.#byPid = new Map(image.processes.map((process) => [process.pid, process]));
    this.#root = this.#byPid.get(image.rootPid)!;
  }

  plan(): TreeMaking {
    for (const process of this.#image.processes) {
      if (process !== this.#root) this.#makings.set(process.pid, this.#make(process));
    }
    const groups = this.#deadGroups();
    const groupIsInherited = this.#inheritors();
    for (const process of this.#image.processes) this.#checkGroup(process, groupIsInherited);
    const left = this.#image.processes.filter(({ pid, pgid, sid }) => {
      return pgid !== pid && this.#image.processes.some((p) => p.pgid === pid && p.sid === sid);
    });
    return {
      makingOf: (pid) => this.#makings.get(pid) ?? { kind: 'child' },
      standInsOf: (parent) => this.#standIns.get(parent) ?? [],
      groupsHeldBy: (pid) => groups.get(pid) ?? [],
      adopters: this.#adopters,
      groupIsInherited,
      hosts: this.#hosts(),
      left: new Set(left.map(({ pid }) => pid)),
      madeBy: (maker) =>
        this.#image.processes.filter(({ pid }) => {
          const making = this.#makings.get(pid);
          return making !== undefined && 'maker' in making && making.maker === maker;
        }),
      standInCount: [...this.#standIns.values()].flat().length,
    };
  }

  #parentOf(process: Process): Process {
    return this.#byPid.get(process.ppid) ?? this.#root;
  }

  #childrenOf(process: Process): Process[] {
    return this.#image.processes.filter(
      (child) => child !== this.#root && child !== process && this.#parentOf(child) === process,
    );
  }

  /** The session that a process must be made in: its own, or for a leader that of children it had before. undefined:
   *  any. */
  #birth(process: Process): number | undefined {
    if (process.sid !== process.pid) return process.sid;
    if (this.#births.has(process.pid)) return this.#births.get(process.pid);
    this.#births.set(process.pid, undefined);
    const early = this.#childrenOf(process)
      .map((child) => this.#birth(child))
      .find((sid) => sid !== undefined && sid !== process.sid && this.#isInherited(process, sid));
    this.#births.set(process.pid, early);
    return early;
  }

  /** Whether a process could have been born in a session: one of an ancestor, not one from below it. */
  #isInherited(process: Process, sid: number): boolean {
    if (process === this.#root) return sid === 0; // the PID namespace's outside
    const parent = this.#parentOf(process);
    return parent.sid === sid || this.#birth(parent) === sid || this.#isSibling(parent, sid);
  }

  /** Whether a child of `parent` leads the session. */
  #isSibling(parent: Process, sid: number): boolean {
    const leader = this.#byPid.get(sid);
    return leader !== undefined && leader !== this.#root && this.#parentOf(leader) === parent;
  }

  #make(process: Process): Making {
    const parent = this.#parentOf(process);
    const birth = this.#birth(process);
    if (birth === undefined || birth === parent.sid) return { kind: 'child' };
    if (this.#birth(parent) === birth && parent.sid === parent.pid) return { kind: 'early' };
    const leader = this.#byPid.get(birth);
    if (process.fsOwnerPid !== 0) return refuse(process, parent); // its parent must make it
    if (leader === undefined) return this.#fromStandIn(process, parent, birth);
    if (this.#isSibling(parent, birth)) {
      return this.#sibling(process, parent, { maker: birth, exitSignal: leader.exitSignal });
    }
    if (this.#isAbove(parent, leader)) return this.#adopt(process, parent, birth);
    return refuse(process, parent);
  }

  #fromStandIn(process: Process, parent: Process, sid: number): Making {
    if (sid === 0 || sid === this.#root.sid) return refuse(process, parent);
    const holder = [...this.#standIns].find(([, sids]) => sids.includes(sid))?.[0];
    if (holder === undefined) {
      this.#standIns.set(parent.pid, [...(this.#standIns.get(parent.pid) ?? []), sid]);
    } else if (holder !== parent.pid) {
      if (!this.#isAbove(parent, this.#byPid.get(holder)!)) return refuse(process, parent);
      return this.#adopt(process, parent, sid);
    }
    return this.#sibling(process, parent, { maker: sid, exitSignal: SIGCHLD });
  }

  /** CLONE_PARENT: the signal that tells of the end is the maker's. */
  #sibling(
    process: Process,
    parent: Process,
    { maker, exitSignal }: { maker: number; exitSignal: number },
  ): Making {
    if (process.exitSignal !== exitSignal) return refuse(process, parent);
    return { kind: 'sibling', maker };
  }

  #adopt(process: Process, parent: Process, maker: number): Making {
    if (process.exitSignal !== SIGCHLD) return refuse(process, parent);
    this.#adopters.add(parent.pid);
    // Where others have PIDs too, the kernel gives a free one.
    const between = this.#image.ownPidNamespace ? this.#spare++ : 0;
    return { kind: 'orphan', maker, between };
  }

  #inheritors(): Set<number> {
    const found = new Set<number>();
    for (const { pgid, innerPgids, pid } of this.#image.processes) {
      if (innerPgids.at(-1) !== 0) continue;
      for (let at = this.#byPid.get(pid)!; at !== this.#root; at = this.#parentOf(at)) {
        const parent = this.#parentOf(at);
        if (parent.pid === pgid && parent.sid !== pgid) found.add(at.pid);
      }
    }
    return found;
  }

  /** A group that the PID namespace of a process does not show must be the one it is born in. */
  #checkGroup(process: Process, inheritors: ReadonlySet<number>): void {
    const { pid, comm, pgid } = process;
    if (process.innerPgids.at(-1) !== 0 || this.#groupAtBirth(process, inheritors) === pgid) return;
    throw new FerryError(
      'dumpbin.group',
      `Process ${pid} (${comm}) is in group ${pgid}, which its PID namespace does not show and its parent is not in`,
      {
        remedy:
          'let the first process of a PID namespace make a group of its own (setpgid, setsid)',
      },
    );
  }

  #groupAtBirth(process: Process, inheritors: ReadonlySet<number>): number {
    if (process === this.#root) return process.pgid;
    const making = this.#makings.get(process.pid)!;
    const made = 'maker' in making ? this.#byPid.get(making.maker) : undefined;
    const maker = made ?? this.#parentOf(process);
    const leads = maker.sid === maker.pid && making.kind !== 'early';
    if (leads || inheritors.has(process.pid)) return maker.pid;
    return this.#groupAtBirth(maker, inheritors);
  }

  #hosts(): Set<number> {
    const hosts = new Set<number>();
    for (const process of this.#image.processes) {
      const init = initOf(this.#image, pidSpaceOf(this.#image, process));
      if (init !== undefined && init !== process) hosts.add(init.pid);
    }
    return hosts;
  }

  #isAbove(ancestor: Process, process: Process): boolean {
    for (let at = process; at !== this.#root; at = this.#parentOf(at)) {
      if (at === ancestor) return true;
    }
    return ancestor === this.#root;
  }

  /** Dead group leaders, by the first living member. The group of a session whose leader is gone is its stand-in's; that
   *  of the root's own session, when it leads none, is that of whoever restores. */
  #deadGroups(): Map<number, number[]> {
    const held = new Map<number, number[]>();
    const seen = new Set<number>();
    for (const { pid, pgid, sid } of this.#image.processes) {
      if (this.#byPid.has(pgid) || pgid === 0 || pgid === sid || seen.has(pgid)) continue;
      if (pgid === this.#root.pgid && this.#root.sid !== this.#root.pid) continue;
      seen.add(pgid);
      held.set(pid, [...(held.get(pid) ?? []), pgid]);
    }
    return held;
  }
}

function refuse(process: Process, parent: Process): never {
  throw new FerryError(
    'dumpbin.session',
    `Process ${process.pid} (${process.comm}) is in session ${process.sid}, which its parent ${parent.pid} is not in`,
    { remedy: 'let the session leader live as long as its session, or run it outside the tree' },
  );
}
