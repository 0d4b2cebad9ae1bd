import { ok, strictEqual, throws } from 'node:assert';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { call, KernelMemory, KernelPages, KernelTypes, OwnedFd } from '@ferry/linux';

describe('memory of the kernel', () => {
  it('is laid out as the kernel says', () => {
    const types = KernelTypes.read();
    strictEqual(types?.offsetOf('list_head', 'prev'), 8);
    strictEqual(types.sizeOf('list_head'), 16);
    strictEqual(
      types.offsetOf('sock', '__sk_common.skc_cookie'),
      types.offsetOf('sock_common', 'skc_cookie'),
    );
    strictEqual(types.offsetOf('list_head', 'other'), undefined);
    strictEqual(types.offsetOf('no_structure', 'next'), undefined);
  });

  it('is read where something is, and nowhere else', () => {
    using memory = KernelMemory.open();
    ok(memory !== undefined, 'the kernel does not let its memory be read');
    const name = memory.read(memory.at(memory.currentTask(), 'task_struct', 'comm'), 16);
    const own = readFileSync('/proc/thread-self/comm', 'utf8').trim();
    strictEqual(name.toString('latin1', 0, own.length), own);
    throws(() => memory.read(1n << 12n, 8), /kernel memory at 1000/);
    throws(() => memory.read(0n, 8), /kernel memory at 0/);
    throws(() => memory.at(8n, 'task_struct', 'no_member'), /no_member/);
  });

  it('is read however often, with what the kernel is given still there when it looks', () => {
    using memory = KernelMemory.open();
    const comm = memory!.at(memory!.currentTask(), 'task_struct', 'comm');
    for (let i = 0; i < 10_000; i++) strictEqual(memory!.read(comm, 16).length, 16);
  }).timeout(10_000);

  it('leads from a descriptor to its file', () => {
    using memory = KernelMemory.open();
    const fd = openSync('/proc/self/status', 'r');
    try {
      const position = memory!.types.offsetOf('file', 'f_pos')!;
      readFileSync(fd);
      const file = memory!.file(fd);
      const told = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
      const [, at] = /^pos:\t(\d+)$/m.exec(told)!;
      strictEqual(memory!.read(file + BigInt(position), 8).readBigUInt64LE(0), BigInt(at!));
    } finally {
      closeSync(fd);
    }
  });

  it('holds pages that are known by their struct page alone', () => {
    using memory = KernelMemory.open();
    const ends = Buffer.alloc(8);
    call('pipe2', ends, 0o2000000);
    using reader = new OwnedFd(ends.readInt32LE(0));
    using writer = new OwnedFd(ends.readInt32LE(4));
    const text = Buffer.from('what is in the pipe');
    call('write', writer.number, text, text.length);
    const pipe = memory!.long(memory!.file(reader.number), 'file', 'private_data');
    const buffers = memory!.long(pipe, 'pipe_inode_info', 'bufs');
    const page = memory!.long(buffers, 'pipe_buffer', 'page');
    const offset = memory!.word(buffers, 'pipe_buffer', 'offset');
    const found = new KernelPages(memory!).read(page, offset, text.length);
    strictEqual(found.toString(), text.toString());
  });
});
