import type { UnixCredentials } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';
import type { EmitContext } from './emit.js';

const CLONE_FILES = 0x400;
/** Waits for children that tell their end with no signal. */
const WAIT_CLONE = 0x40000000;

/** Runs steps as the process that SO_PEERCRED must tell: the kernel takes its pid, effective user and group from
 *  whoever calls connect(2), listen(2) or socketpair(2). Where the process exists already (a skeleton), it does them
 *  itself; else a process with that pid lives for the length of these steps, with the same descriptors. So the steps go
 *  into the builder that they are given, take no slots from others, and what they leave in slots is lost. */
export function asPeer(
  b: ProgramBuilder,
  credentials: UnixCredentials | undefined,
  { name, ctx }: { name: string; ctx: EmitContext },
  steps: (b: ProgramBuilder) => void,
): void {
  const { pid, uid, gid } = credentials ?? { pid: 0, uid: 0, gid: 0 };
  if (pid === 0 || pid === ctx.image.rootPid) {
    asUser(b, { uid, gid, name }, () => steps(b));
    return;
  }
  const done = ctx.delegate?.(b, { pid, name }, (theirs) => {
    asUser(theirs, { uid, gid, name }, () => steps(theirs));
  });
  if (done === true) return;
  const peer = b.label();
  const after = b.label();
  const step = `${name}: as process ${pid}`;
  b.op('fork', [pid, CLONE_FILES, 0], step, { target: peer });
  b.op('jump', [0, 0], step, { target: after });
  b.place(peer);
  asUser(b, { uid, gid, name }, () => steps(b));
  b.op('exit', [0], step);
  b.place(after);
  b.sys('wait4', [pid, 0, WAIT_CLONE, 0], step, { expect: { value: pid } });
}

/** With other effective ids; file access stays that of the superuser (setfsuid(2)). */
function asUser(
  b: ProgramBuilder,
  { uid, gid, name }: { uid: number; gid: number; name: string },
  steps: () => void,
): void {
  if (uid === 0 && gid === 0) {
    steps();
    return;
  }
  const step = `${name}: as user ${uid}, group ${gid}`;
  b.sys('setresgid', [-1, gid, -1], step);
  b.sys('setresuid', [-1, uid, -1], step);
  b.sys('setfsuid', [0], step, { expect: 'any' });
  steps();
  b.sys('setresuid', [-1, 0, -1], `${name}: superuser again`);
  b.sys('setresgid', [-1, 0, -1], `${name}: superuser again`);
}
