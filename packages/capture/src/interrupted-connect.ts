import type { FileDescriptor, FileObject, Process, Thread } from '@ferry/image';
import type { Registers } from '@ferry/linux';

const NR_CONNECT = 42n;
const ERESTARTSYS = -512n;
const SYSCALL_LENGTH = 2n;
const SYN_SENT = 2;
const CLOSED = 7;

/** A thread that was stopped in connect(2) makes the call again, which is right as long as the handshake goes on. Where it
 *  has come about meanwhile, the kernel would have told the thread so; a connection that is restored it only calls
 *  connected already (EISCONN). So the call has returned then. */
export function finishConnects(
  process: Process,
  descriptors: readonly FileDescriptor[],
  files: ReadonlyMap<number, FileObject>,
  stoppedWith: (thread: Thread) => Registers | undefined,
): void {
  for (const thread of process.threads) {
    const { registers } = thread;
    if (registers?.rax !== NR_CONNECT) continue;
    const stopped = stoppedWith(thread);
    if (stopped === undefined || !isInConnect(stopped)) continue;
    const fd = Number(BigInt.asIntN(32, registers.rdi));
    const fileId = descriptors.find((descriptor) => descriptor.fd === fd)?.fileId ?? 0;
    const kind = files.get(fileId)?.kind;
    if (kind?.$case !== 'inet' || kind.value.tcp === undefined) continue;
    if (kind.value.state === SYN_SENT || kind.value.state === CLOSED) continue;
    registers.rax = 0n;
    registers.rip += SYSCALL_LENGTH;
  }
}

function isInConnect(registers: Registers): boolean {
  return (
    registers.get('orig_rax') === NR_CONNECT &&
    BigInt.asIntN(64, registers.get('rax')) === ERESTARTSYS
  );
}
