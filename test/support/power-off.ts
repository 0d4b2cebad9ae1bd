import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, until } from './shell.js';
import { tracesOf } from './traces.js';

/** Every process of a host's containers ends at once, and its mounts go, as with the host; its agent has been killed.
 *  @param id  the run's
 *  @param stateDir  where the host's agent keeps everything */
export async function powerOff(id: string, host: string, stateDir: string): Promise<void> {
  const cgroups = tracesOf(id).cgroups.filter((path) => path.includes(`ferry-${id}-${host}`));
  const processes = () =>
    cgroups.flatMap((path) => {
      const file = join(path, 'cgroup.procs');
      return existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
    });
  for (const pid of new Set(processes())) process.kill(Number(pid), 'SIGKILL');
  // What the first version's freezer holds is killed when it lets go.
  for (const path of cgroups) {
    const file = join(path, 'freezer.state');
    if (existsSync(file)) writeFileSync(file, 'THAWED');
  }
  await until('them to end', () => (processes().length === 0 ? true : undefined));
  const mounts = tracesOf(id).mounts.filter((path) => path.includes(stateDir));
  for (const path of mounts) await run('umount', ['-l', path]);
}
