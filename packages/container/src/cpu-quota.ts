import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import type { CgroupMounts } from './cgroups.js';

const PERIOD_US = 20_000;
/** The kernel refuses less (kernel/sched/core.c: min_cfs_quota_period). */
const QUOTA_US_MIN = 1000;

/** A file and what it is to hold. */
export interface FileText {
  readonly path: string;
  readonly text: string;
}

/** The CPU time that one cgroup may have: taken away for a while, and given back as it was. */
export class CpuQuota {
  readonly #mounts: CgroupMounts;
  readonly #group: string;
  #before: readonly FileText[] | undefined;

  constructor(mounts: CgroupMounts, group: string) {
    this.#mounts = mounts;
    this.#group = group;
  }

  /** CPU time used so far, in microseconds. */
  async usageUs(): Promise<number> {
    const v1 = this.#mounts.controllers.get('cpuacct');
    if (v1 !== undefined) {
      return Number(await readFile(join(v1, this.#group, 'cpuacct.usage'), 'utf8')) / 1000;
    }
    const stat = await readFile(join(this.#mounts.unified ?? '', this.#group, 'cpu.stat'), 'utf8');
    return Number(/^usage_usec (\d+)$/m.exec(stat)?.[1] ?? 0);
  }

  /** What puts everything back; empty while nothing was taken. */
  get before(): readonly FileText[] {
    return this.#before ?? [];
  }

  /** Remembers what stands now, before the first `limit`. Repeatable.
   *  @throws FerryError container.cpuQuota when this host has no such controller */
  async remember(): Promise<void> {
    if (this.#before !== undefined) return;
    const files: FileText[] = [];
    // The order matters on v1: a quota must fit its period.
    for (const path of this.#files()) {
      try {
        files.push({ path, text: (await readFile(path, 'utf8')).trim() });
      } catch (cause) {
        throw new FerryError('container.cpuQuota', 'The container cannot be slowed down here', {
          cause,
          remedy: 'mount the cpu controller of cgroups, or choose another --on-no-convergence',
        });
      }
    }
    this.#before = files;
  }

  /** @param cpus  processors' worth of time, such as 0.25 */
  async limit(cpus: number): Promise<void> {
    await this.remember();
    const quota = Math.max(QUOTA_US_MIN, Math.round(cpus * PERIOD_US));
    const [first = '', second] = this.#files();
    if (second === undefined) await writeFile(first, `${quota} ${PERIOD_US}`);
    else {
      await writeFile(second, '-1');
      await writeFile(first, String(PERIOD_US));
      await writeFile(second, String(quota));
    }
  }

  /** As it was. Repeatable. */
  async restore(): Promise<void> {
    const before = this.#before;
    this.#before = undefined;
    for (const { path, text } of before ?? []) await writeFile(path, text);
  }

  /** v2: cpu.max. v1: the period, then the quota. */
  #files(): string[] {
    const v1 = this.#mounts.controllers.get('cpu');
    if (v1 === undefined) return [join(this.#mounts.unified ?? '', this.#group, 'cpu.max')];
    const folder = join(v1, this.#group);
    return [join(folder, 'cpu.cfs_period_us'), join(folder, 'cpu.cfs_quota_us')];
  }
}
