import type { Process, SignalAction, TreeImage } from '@ferry/image';
import { depthOf, numberFor, ownPid } from './pid-numbers.js';
import type { ProgramBuilder } from './program.js';

const SIGCHLD = 17;
const SIGSTOP = 19;
const SA_NOCLDSTOP = 1n;
const SIG_IGN = 1n;
const EAGAIN = 11;
const P_ALL = 0;
const P_PID = 1;
const WAIT = { noHang: 1, stopped: 2, exited: 4, continued: 8 } as const;
const WNOWAIT = 0x01000000;
const WAIT_ALL = 0x40000000;
const SIGINFO_SIZE = 128;
const SIGINFO_PID = 12;

/** Children that stop once more in a restore, of which their parent has heard already: it waits until they have, so that
 *  the kernel does not tell it again. */
export function stoppedChildren(image: TreeImage, parent: Process): Process[] {
  return image.processes.filter(
    (child) => child.ppid === parent.pid && child.state === 'stopped' && surelyStops(child, parent),
  );
}

/** SIGSTOP stops all but the first process of a PID namespace. The signals of terminals stop nobody in an orphaned group;
 *  one whose member has its parent in another group of its session is none (setpgid(2)). */
function surelyStops(child: Process, parent: Process): boolean {
  if (depthOf(child) !== depthOf(parent) || child.pid === child.ppid) return false;
  const isOwnGroup = child.pgid !== parent.pgid && child.sid === parent.sid;
  return child.exitStatus === SIGSTOP || child.exitStatus === 0 || isOwnGroup;
}

/** After the actions of signals: no SIGCHLD comes of children that stop. One that was pending is queued as it was. */
export function emitNoStopSignal(b: ProgramBuilder, image: TreeImage, parent: Process): void {
  if (stoppedChildren(image, parent).length > 0) emitHandler(b, parent, SA_NOCLDSTOP);
}

/** When everything runs: waits until they have stopped, and takes what the parent had taken. */
export function emitAwaitStopped(b: ProgramBuilder, image: TreeImage, parent: Process): void {
  const children = stoppedChildren(image, parent);
  for (const child of children) {
    const number = numberFor(parent, child);
    const step = `child ${child.pid} has stopped again`;
    const wait = (flags: number) => {
      const args = [P_PID, number, b.reserve(SIGINFO_SIZE), flags | WAIT_ALL, 0];
      b.sys('waitid', args, step, { expect: 'any' });
    };
    // Somebody may continue or end it before this is reached.
    wait(WAIT.stopped | WAIT.continued | WAIT.exited | WNOWAIT);
    if (child.stopWaitedFor) wait(WAIT.stopped | WAIT.noHang);
  }
  if (children.length === 0) return;
  if (handlerOf(parent) !== undefined) emitHandler(b, parent, 0n);
  else if (!isPending(parent)) emitTakeSignal(b, parent);
}

/** The action of SIGCHLD when that is a function: any other one would discard the signal (sigaction(2)). */
function handlerOf({ actions }: Process): SignalAction | undefined {
  return actions.find(({ signal, handler }) => signal === SIGCHLD && handler > SIG_IGN);
}

function emitHandler(b: ProgramBuilder, parent: Process, more: bigint): void {
  const action = handlerOf(parent);
  if (action === undefined) return;
  const { handler, flags, restorer, mask } = action;
  const step = `SIGCHLD of children that stop: ${more === 0n ? 'yes' : 'no'}`;
  b.sys('rt_sigaction', [SIGCHLD, b.words(handler, flags | more, restorer, mask), 0, 8], step);
}

function isPending({ pending }: Process): boolean {
  return pending.some(({ siginfo }) => Buffer.from(siginfo).readInt32LE(0) === SIGCHLD);
}

/** Without a function the signal is taken away, unless it also tells that a child has ended. */
function emitTakeSignal(b: ProgramBuilder, parent: Process): void {
  const step = 'SIGCHLD of children that stop is taken away';
  const [info, child] = [b.reserve(SIGINFO_SIZE), b.reserve(SIGINFO_SIZE)];
  const [got, pid] = [b.slotFor('signal'), b.slotFor('ended child')];
  const over = b.label();
  const set = b.words(1n << BigInt(SIGCHLD - 1));
  b.sys('rt_sigtimedwait', [set, info, b.words(0, 0), 8], step, { expect: 'any', into: got });
  b.op('jump', [got, -EAGAIN], step, { target: over });
  const flags = WAIT.exited | WAIT.noHang | WNOWAIT | WAIT_ALL;
  b.sys('waitid', [P_ALL, 0, child, flags, 0], step, { expect: 'any' });
  b.load(child.plus(SIGINFO_PID), 4, pid, step);
  b.op('jump', [pid, 0], step, { target: over });
  b.sys('rt_sigqueueinfo', [ownPid(parent), SIGCHLD, info], step, { expect: 'any' });
  b.place(over);
}
