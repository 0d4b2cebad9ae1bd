import { deepEqual } from 'node:assert/strict';
import { FileObject, Registers as ImageRegisters, InetSocket, Process } from '@ferry/image';
import { Registers } from '@ferry/linux';
import { finishConnects } from '../src/interrupted-connect.js';

/** A thread that was stopped in a system call on descriptor 5, prepared to make it again. */
function finished(state: number, origRax: bigint): { rip: bigint; rax: bigint } {
  const registers = ImageRegisters.create({ rax: 42n, rip: 1000n, rdi: 5n });
  const process = Process.fromPartial({ threads: [{ tid: 7, registers }] });
  const socket = InetSocket.fromPartial({ state, tcp: {} });
  const file = FileObject.fromPartial({ id: 3, kind: { $case: 'inet', value: socket } });
  const stopped = new Registers(Buffer.alloc(27 * 8));
  stopped.set('orig_rax', origRax);
  stopped.set('rax', -512n);
  const descriptors = [{ fd: 5, fileId: 3, closeOnExec: false }];
  finishConnects(process, descriptors, new Map([[3, file]]), () => stopped);
  const { rip, rax } = process.threads[0]!.registers!;
  return { rip, rax };
}

describe('a connect(2) that was interrupted', () => {
  it('has returned when the connection has come about', () => {
    deepEqual(finished(1, 42n), { rip: 1002n, rax: 0n });
  });
  it('is made again while the handshake goes on, and when it has failed', () => {
    deepEqual(finished(2, 42n), { rip: 1000n, rax: 42n });
    deepEqual(finished(7, 42n), { rip: 1000n, rax: 42n });
  });
  it('is none when the thread was not in it', () => {
    deepEqual(finished(1, -1n), { rip: 1000n, rax: 42n });
  });
});
