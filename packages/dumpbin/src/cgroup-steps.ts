import type { Process } from '@ferry/image';
import type { ProgramBuilder } from './program.js';

const EEXIST = 17;
const O_WRONLY = 1;

/** Puts this process into its control groups; groups that are gone are made again, with what was set in them. */
export function emitControlGroups(
  b: ProgramBuilder,
  process: Pick<Process, 'controlGroups'>,
): void {
  const slot = b.slotFor('control group');
  for (const { mountpoint, path, levels } of process.controlGroups) {
    for (const level of levels) {
      const folder = `${mountpoint}${level.path}`;
      const step = `control group ${folder}`;
      b.sys('mkdir', [b.cstr(folder), 0o755], step, { expect: { orErrno: EEXIST } });
      for (const { name, value } of level.properties) {
        // Whoever still has the group may have settings that forbid it; the process is in it all the same.
        const file = `${folder}/${name}`;
        b.sys('open', [b.cstr(file), O_WRONLY, 0], `open ${file}`, { into: slot, expect: 'any' });
        const args = [slot, b.bytes(value), value.length];
        b.sys('write', args, `set ${file}`, { expect: 'any' });
        b.sys('close', [slot], `close ${file}`, { expect: 'any' });
      }
    }
    const members = `${mountpoint}${path === '/' ? '' : path}/cgroup.procs`;
    b.sys('open', [b.cstr(members), O_WRONLY, 0], `open ${members}`, { into: slot });
    b.sys('write', [slot, b.cstr('0'), 1], `join ${members}`);
    b.sys('close', [slot], `close ${members}`);
  }
}
