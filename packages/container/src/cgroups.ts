import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError } from '@ferry/core';

/** How this host mounts its cgroups. `hybrid`: v1 controllers, and a v2 tree that has the freezer
 *  and kill files. */
export type CgroupMode = 'v1' | 'hybrid' | 'v2';

export interface CgroupMounts {
  readonly mode: CgroupMode;
  /** The v2 tree, if there is one. */
  readonly unified: string | undefined;
  /** v1: mount point by controller (`memory`, `freezer`, `name=systemd`, …). */
  readonly controllers: ReadonlyMap<string, string>;
}

const POLL_MS = 1;
const REMOVE_TIMEOUT_MS = 2000;
const NO_LIMIT_BYTES = 2 ** 60;

/** Reads the mounts out of the text of /proc/self/mountinfo; proc(5). Pure. */
export function parseCgroupMounts(mountinfo: string): CgroupMounts {
  let unified: string | undefined;
  const controllers = new Map<string, string>();
  for (const line of mountinfo.split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const path = left.split(' ')[4];
    const [type, , superOptions = ''] = right.split(' ');
    if (path === undefined) continue;
    if (type === 'cgroup2') unified ??= path;
    if (type !== 'cgroup') continue;
    for (const option of superOptions.split(',')) {
      if (!['rw', 'ro', 'xattr', 'clone_children'].includes(option) && !controllers.has(option)) {
        controllers.set(option, path);
      }
    }
  }
  const mode = unified === undefined ? 'v1' : controllers.size > 0 ? 'hybrid' : 'v2';
  return { mode, unified, controllers };
}

/** The cgroups of containers: freezing, process lists, memory. Groups are named by their path below
 *  each mount. */
export class Cgroups {
  readonly mounts: CgroupMounts;

  private constructor(mounts: CgroupMounts) {
    this.mounts = mounts;
  }

  /** @throws FerryError container.cgroup when this process sees no cgroups */
  static async detect(): Promise<Cgroups> {
    const mounts = parseCgroupMounts(await readFile('/proc/self/mountinfo', 'utf8'));
    if (mounts.unified === undefined && mounts.controllers.size === 0) {
      throw new FerryError('container.cgroup', 'No cgroup file system is mounted here', {
        remedy:
          'mount it at /sys/fs/cgroup; a process started by "ip netns exec" does not see it, one started by ' +
          '"nsenter --net=/run/netns/NAME" does',
      });
    }
    return new Cgroups(mounts);
  }

  /** The folder with `cgroup.freeze` and `cgroup.kill` (v2, hybrid), else of the v1 freezer. */
  path(group: string): string {
    const { unified, controllers } = this.mounts;
    const base = unified ?? controllers.get('freezer');
    if (base === undefined)
      throw new FerryError('container.cgroup', 'This host has no cgroup freezer');
    return join(base, group);
  }

  /** Stops all processes of the group; returns when the kernel says that all are stopped.
   *  @throws FerryError container.freeze after `timeoutMs`; the group is thawed then */
  async freeze(
    group: string,
    options: { timeoutMs: number; signal?: AbortSignal | undefined },
  ): Promise<void> {
    try {
      this.#setFrozen(group, true);
      const end = performance.now() + options.timeoutMs;
      while (!this.isFrozen(group)) {
        options.signal?.throwIfAborted();
        if (performance.now() > end) throw await this.#notFrozen(group, options.timeoutMs);
        await sleep(POLL_MS);
      }
    } catch (error) {
      try {
        this.#setFrozen(group, false);
      } catch {
        // The first error says more.
      }
      throw error;
    }
  }

  async thaw(group: string): Promise<void> {
    this.#setFrozen(group, false);
  }

  isFrozen(group: string): boolean {
    const folder = this.path(group);
    if (this.mounts.unified === undefined) {
      return readFileSync(join(folder, 'freezer.state'), 'utf8').trim() === 'FROZEN';
    }
    return /^frozen 1$/m.test(readFileSync(join(folder, 'cgroup.events'), 'utf8'));
  }

  /** Host PIDs of all processes of the group and its subgroups, ascending; none when it does not exist. Read at once: a cutover
   *  waits for it, and the pool's threads may have other work. */
  pids(group: string): number[] {
    const found = new Set<number>();
    const look = (folder: string): void => {
      for (const pid of textOf(join(folder, 'cgroup.procs')).split('\n')) {
        if (pid !== '') found.add(Number(pid));
      }
      for (const inner of foldersIn(folder)) look(join(folder, inner));
    };
    look(this.path(group));
    return [...found].sort((a, b) => a - b);
  }

  /** Kills every process of the group at once, frozen ones too. */
  async killAll(group: string): Promise<void> {
    const file = join(this.path(group), 'cgroup.kill');
    if (existsSync(file)) {
      await writeFile(file, '1').catch(() => undefined);
      return;
    }
    for (const pid of this.pids(group)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has ended meanwhile.
      }
    }
    await this.thaw(group).catch(() => undefined);
  }

  /** Memory in use, page cache included, and its limit where there is one. */
  async memory(group: string): Promise<{ usageBytes: number; limitBytes?: number }> {
    const v1 = this.mounts.controllers.get('memory');
    const folder = v1 === undefined ? this.path(group) : join(v1, group);
    const [usageFile, limitFile] =
      v1 === undefined
        ? ['memory.current', 'memory.max']
        : ['memory.usage_in_bytes', 'memory.limit_in_bytes'];
    const usageBytes = Number(await readFile(join(folder, usageFile), 'utf8').catch(() => '0'));
    const limit = Number(await readFile(join(folder, limitFile), 'utf8').catch(() => 'max'));
    return limit < NO_LIMIT_BYTES ? { usageBytes, limitBytes: limit } : { usageBytes };
  }

  /** Removes the group and its subgroups everywhere; processes in it must have been killed.
   *  @throws FerryError container.cgroup when some do not end within two seconds */
  async remove(group: string): Promise<void> {
    const { unified, controllers } = this.mounts;
    const bases = new Set([...controllers.values(), ...(unified === undefined ? [] : [unified])]);
    for (const base of bases) await this.#removeTree(join(base, group));
  }

  async #removeTree(folder: string): Promise<void> {
    const folders: string[] = [];
    await this.#walk(folder, async (inner) => void folders.push(inner));
    for (const inner of folders.reverse()) {
      for (const end = performance.now() + REMOVE_TIMEOUT_MS; ; await sleep(POLL_MS)) {
        const code = await rmdir(inner).then(
          () => undefined,
          (error: NodeJS.ErrnoException) => error.code,
        );
        if (code === undefined || code === 'ENOENT') break;
        if (code !== 'EBUSY' || performance.now() > end) {
          throw new FerryError('container.cgroup', `Cgroup ${inner} cannot be removed (${code})`);
        }
      }
    }
  }

  /** Without the pool's threads: a cutover waits for it, and they have the files. */
  #setFrozen(group: string, frozen: boolean): void {
    const folder = this.path(group);
    const [file, text] =
      this.mounts.unified === undefined
        ? ['freezer.state', frozen ? 'FROZEN' : 'THAWED']
        : ['cgroup.freeze', frozen ? '1' : '0'];
    try {
      writeFileSync(join(folder, file), text);
    } catch (cause) {
      throw new FerryError(
        'container.freeze',
        `Cgroup ${folder} cannot be ${frozen ? 'frozen' : 'thawed'}`,
        {
          cause,
        },
      );
    }
  }

  /** Names the processes that keep the group from being frozen. */
  async #notFrozen(group: string, timeoutMs: number): Promise<FerryError> {
    const stuck: string[] = [];
    for (const pid of this.pids(group)) {
      const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
      const state = /^State:\s+(.*)$/m.exec(status)?.[1];
      if (state?.startsWith('D'))
        stuck.push(`${pid} (${/^Name:\s+(.*)$/m.exec(status)?.[1]}, ${state})`);
    }
    const who = stuck.length === 0 ? '' : `; in uninterruptible sleep: ${stuck.join(', ')}`;
    return new FerryError(
      'container.freeze',
      `The container was not frozen within ${timeoutMs} ms${who}`,
      {
        remedy:
          'a process that waits for a device or a network file system freezes when that answers',
      },
    );
  }

  async #walk(folder: string, visit: (folder: string) => Promise<void>): Promise<void> {
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => undefined);
    if (entries === undefined) return;
    await visit(folder);
    for (const entry of entries)
      if (entry.isDirectory()) await this.#walk(join(folder, entry.name), visit);
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // it is gone
  }
}

function foldersIn(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch {
    return [];
  }
}
