import { join } from 'node:path';

/** Where a host keeps what belongs to one container. */
export interface Places {
  readonly folder: string;
  readonly record: string;
  readonly bundle: string;
  readonly config: string;
  readonly merged: string;
  readonly upper: string;
  readonly work: string;
  readonly log: string;
  readonly exit: string;
  readonly pidFile: string;
  readonly runtimeLog: string;
  readonly netns: string;
  /** Path of its cgroup below each cgroup mount. */
  readonly group: string;
}

export function placesOf(
  host: { stateDir: string; runDir: string; cgroupParent: string },
  name: string,
): Places {
  const folder = join(host.stateDir, 'containers', name);
  return {
    folder,
    record: join(folder, 'record.json'),
    bundle: join(folder, 'bundle'),
    config: join(folder, 'bundle', 'config.json'),
    merged: join(folder, 'rootfs'),
    upper: join(folder, 'upper'),
    work: join(folder, 'work'),
    log: join(folder, 'log.jsonl'),
    exit: join(folder, 'exit.json'),
    pidFile: join(folder, 'pid'),
    runtimeLog: join(folder, 'runtime.log'),
    netns: join(host.runDir, 'netns', name),
    group: join(host.cgroupParent, name),
  };
}
