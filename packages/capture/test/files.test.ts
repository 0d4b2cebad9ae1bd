import { deepStrictEqual, ok, strictEqual } from 'node:assert';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ProgramBuilder } from '@ferry/dumpbin';
import type { FileObject, TreeImage } from '@ferry/image';
import { call, cString, sys } from '@ferry/linux';
import type { EmitContext } from '../../dumpbin/src/files/emit.js';
import { fileEmitters } from '../../dumpbin/src/files/registry.js';
import { interpret } from '../../dumpbin/test/support/interpret.js';
import { captureFiles, collectDescriptors } from '../src/files/descriptors.js';
import { PidView } from '../src/pid-view.js';

const self = { pid: process.pid, hostPid: process.pid, command: 'mocha' };
const O = {
  rdonly: 0,
  wronly: 1,
  rdwr: 2,
  creat: 0o100,
  append: 0o2000,
  nonblock: 0o4000,
  direct: 0o40000,
  path: 0o10000000,
} as const;
const F = { getfl: 3, setfl: 4, getpipeSize: 1032, setpipeSize: 1031 } as const;
/** Restored descriptions of a test stand from here on, originals at whatever number the kernel gives. */
const SERVICE_BASE = 700;
const CLOCK_MONOTONIC = 1;
const EPOLL = { in: 1, out: 4, oneshot: 1 << 30 } as const;

/** Captures descriptors of this process, as a tree of its own that has nothing else. */
function capture(fds: readonly number[], scanning = false) {
  const collected = collectDescriptors([self], { scanning });
  const wanted = new Set(fds);
  const descriptions = collected.descriptions
    .map((d) => ({ ...d, all: d.all.filter(({ fd }) => wanted.has(fd)) }))
    .filter(({ all }) => all.length > 0)
    .map((d, i) => ({ ...d, id: i + 1, descriptor: d.all[0]! }));
  const tables = new Map([
    [self.pid, collected.tables.get(self.pid)!.filter((d) => wanted.has(d.fd))],
  ]);
  const captured = captureFiles(
    { ...collected, descriptions, tables, [Symbol.dispose]: () => collected[Symbol.dispose]() },
    { scanning, sharedMemoryId: () => 1, namespaceId: () => 0, pids: new PidView(process.pid) },
  );
  captured.release('thawed');
  const idOf = (fd: number) =>
    captured.descriptorsOf(self.pid).find((descriptor) => descriptor.fd === fd)?.fileId;
  const fileOf = (fd: number) => captured.files.find(({ id }) => id === idOf(fd))!;
  return { ...captured, idOf, fileOf };
}

function kindOf<K extends NonNullable<FileObject['kind']>['$case']>(file: FileObject, kind: K) {
  strictEqual(file.kind?.$case, kind);
  return file.kind.value as Extract<NonNullable<FileObject['kind']>, { $case: K }>['value'];
}

describe('descriptors of a tree', () => {
  const open: number[] = [];
  let folder = '';

  const own = (fd: number): number => {
    open.push(fd);
    return fd;
  };
  const openFile = (path: string, flags: number) => own(call('open', cString(path), flags, 0o644));
  const pipe = (flags = 0): [number, number] => {
    const pair = Buffer.alloc(8);
    call('pipe2', pair, flags);
    return [own(pair.readInt32LE(0)), own(pair.readInt32LE(4))];
  };
  const write = (fd: number, text: string) => call('write', fd, Buffer.from(text), text.length);
  const read = (fd: number, length = 1000): string => {
    const buffer = Buffer.alloc(length);
    return buffer.toString('utf8', 0, call('read', fd, buffer, length));
  };
  const close = (fd: number) => {
    sys('close', fd);
    open.splice(open.indexOf(fd), 1);
  };
  const flagsOf = (fd: number) => call('fcntl', fd, F.getfl) & ~0o100000;
  const positionOf = (fd: number) => call('lseek', fd, 0, 1);

  /** Captures, closes the originals (`keep`: not these), and recreates; gives where each description stands. */
  const carry = (
    fds: readonly number[],
    keep: readonly number[] = [],
  ): ((fd: number) => number) => {
    const { files, descriptorsOf, blockers, idOf } = capture(fds);
    deepStrictEqual(blockers, []);
    const image = {
      rootPid: self.pid,
      files,
      processes: [{ pid: self.pid, innerPids: [], descriptors: descriptorsOf(self.pid) }],
      realtimeNs: BigInt(Date.now()) * 1_000_000n,
    } as unknown as TreeImage;
    const places = new Map(files.map(({ id }, i) => [id, SERVICE_BASE + 16 + i]));
    for (const fd of fds) if (!keep.includes(fd)) close(fd);
    const done = new Set<string>();
    const ctx: EmitContext = {
      image,
      serviceBase: SERVICE_BASE,
      fdOf: (id) => places.get(id)!,
      file: (id) => files.find((file) => file.id === id)!,
      objectsEnd: SERVICE_BASE + 16 + files.length,
      coveredFd: () => 0,
      spaceFd: () => 0,
      sharedMemoryFd: () => -1,
      once: (key) => !done.has(key) && done.add(key) !== undefined,
    };
    const b = new ProgramBuilder();
    const emitters = files.map((file) => ({ file, emitter: fileEmitters[file.kind!.$case]! }));
    for (const { file, emitter } of emitters) emitter.create(b, file, ctx);
    for (const { file, emitter } of emitters) emitter.connect?.(b, file, ctx);
    for (const { fd, fileId } of descriptorsOf(self.pid))
      b.sys('dup3', [ctx.fdOf(fileId), fd, 0], `${fd}`);
    for (const { file, emitter } of emitters) {
      const fd = descriptorsOf(self.pid).find(({ fileId }) => fileId === file.id)!.fd;
      emitter.installed?.(b, file, fd, ctx);
    }
    for (const { file, emitter } of emitters) emitter.resume?.(b, file, ctx);
    interpret(b);
    for (const fd of places.values()) sys('close', fd);
    for (const fd of fds) if (!open.includes(fd)) own(fd);
    return (fd) => places.get(idOf(fd)!)!;
  };

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-files-'));
  });

  afterEach(() => {
    for (const fd of open) sys('close', fd);
    open.length = 0;
    rmSync(folder, { recursive: true, force: true });
  });

  it('tells duplicates from files opened twice', () => {
    const first = openFile('/etc/passwd', O.rdonly);
    const second = openFile('/etc/passwd', O.rdonly);
    const third = own(call('dup', first));
    const { idOf } = capture([first, second, third]);
    strictEqual(idOf(third), idOf(first));
    ok(idOf(second) !== idOf(first));
  });

  it('tells a hundred eventfds apart, and their duplicates together', () => {
    const fds = Array.from({ length: 100 }, () => own(call('eventfd2', 0, 0)));
    const copies = fds.map((fd) => own(call('dup', fd)));
    const { idOf, files } = capture([...fds, ...copies]);
    strictEqual(files.length, 100);
    for (const [i, fd] of fds.entries()) strictEqual(idOf(copies[i]!), idOf(fd));
  });

  it('carries position and flags of regular files', () => {
    const path = join(folder, 'file');
    writeFileSync(path, '0123456789');
    const reader = openFile(path, O.rdonly);
    call('lseek', reader, 4, 0);
    const appender = openFile(path, O.wronly | O.append | O.nonblock);
    const named = openFile(path, O.path);
    carry([reader, appender, named]);
    strictEqual(read(reader, 3), '456');
    strictEqual(flagsOf(appender), O.wronly | O.append | O.nonblock);
    strictEqual(flagsOf(named), O.path);
    write(appender, 'A');
    strictEqual(readFileSync(path, 'utf8'), '0123456789A');
  });

  it('carries a deleted file as one file, also when its name is taken', () => {
    const path = join(folder, 'gone');
    const writer = openFile(path, O.rdwr | O.creat);
    write(writer, 'old content');
    const reader = openFile(path, O.rdonly);
    call('lseek', reader, 4, 0);
    unlinkSync(path);
    writeFileSync(path, 'new content');
    carry([writer, reader]);
    strictEqual(read(reader), 'content');
    call('pwrite64', writer, Buffer.from('X'), 1, 0);
    call('lseek', reader, 0, 0);
    strictEqual(read(reader), 'Xld content');
    strictEqual(positionOf(writer), 11);
    strictEqual(readFileSync(path, 'utf8'), 'new content');
  });

  it('carries a file whose name is gone by another one that is left', () => {
    const path = join(folder, 'a');
    const fd = openFile(path, O.rdwr | O.creat);
    mkdirSync(join(folder, 'below'));
    const other = join(folder, 'below/b');
    call('link', cString(path), cString(other));
    unlinkSync(path);
    carry([fd]);
    write(fd, 'one file');
    strictEqual(readFileSync(other, 'utf8'), 'one file');
    ok(!existsSync(path));
  });

  it('refuses deleted files that are too large, naming the file and a way out', () => {
    const path = join(folder, 'large');
    const fd = openFile(path, O.rdwr | O.creat);
    const piece = Buffer.alloc(13 * 1024 * 1024, 'x');
    for (let i = 0; i < 5; i++) call('pwrite64', fd, piece, piece.length, i * piece.length);
    unlinkSync(path);
    const [blocker] = capture([fd], true).blockers;
    strictEqual(blocker?.code, 'file.deletedTooLarge');
    ok(blocker.remedy.includes(`/proc/${process.pid}/fd/${fd}`), blocker.remedy);
  });

  it('carries directories with their position', () => {
    for (const name of ['a', 'b', 'c', 'd']) mkdirSync(join(folder, name));
    const fd = openFile(folder, O.rdonly | 0o200000);
    const entries = Buffer.alloc(48);
    call('getdents64', fd, entries, entries.length);
    const before = positionOf(fd);
    ok(before !== 0);
    carry([fd]);
    strictEqual(positionOf(fd), before);
  });

  it('leaves content in a pipe that is captured, and writes it into the new one', () => {
    const [reader, writer] = pipe(O.nonblock);
    call('fcntl', writer, F.setpipeSize, 262144);
    write(writer, 'some content');
    const { fileOf } = capture([reader, writer]);
    strictEqual(kindOf(fileOf(reader), 'pipe').content.toString(), 'some content');
    carry([reader, writer]);
    strictEqual(call('fcntl', reader, F.getpipeSize), 262144);
    strictEqual(read(reader), 'some content');
    strictEqual(sys('read', reader, Buffer.alloc(1), 1), -11);
    deepStrictEqual([flagsOf(reader), flagsOf(writer)], [O.nonblock, O.wronly | O.nonblock]);
  });

  it('carries a pipe that is filled to the last byte', () => {
    const [reader, writer] = pipe(O.nonblock);
    write(writer, 'x'.repeat(65536));
    carry([reader, writer]);
    strictEqual(sys('write', writer, Buffer.from('y'), 1), -11);
    strictEqual(read(reader, 70000).length, 65536);
  });

  it('keeps packets of an O_DIRECT pipe apart', () => {
    const [reader, writer] = pipe(O.direct | O.nonblock);
    for (const packet of ['aaa', 'b', 'cc']) write(writer, packet);
    carry([reader, writer]);
    deepStrictEqual([read(reader), read(reader), read(reader)], ['aaa', 'b', 'cc']);
    strictEqual(flagsOf(writer), O.wronly | O.direct | O.nonblock);
  });

  it('carries further descriptions of a pipe, opened through /proc', () => {
    const [reader, writer] = pipe();
    const second = openFile(`/proc/self/fd/${writer}`, O.wronly | O.nonblock);
    carry([reader, writer, second]);
    write(second, 'by the second');
    strictEqual(read(reader), 'by the second');
    deepStrictEqual([flagsOf(writer), flagsOf(second)], [O.wronly, O.wronly | O.nonblock]);
  });

  it('carries pipes with one end closed: the rest and the end, or a broken pipe', () => {
    const [reader, lastWriter] = pipe();
    write(lastWriter, 'the rest');
    close(lastWriter);
    const [lastReader, writer] = pipe();
    close(lastReader);
    carry([reader, writer]);
    strictEqual(read(reader), 'the rest');
    strictEqual(read(reader), '');
    strictEqual(sys('write', writer, Buffer.from('x'), 1), -32);
  });

  it('refuses a pipe whose other end is outside', () => {
    const [reader, writer] = pipe();
    const outside = pipe();
    strictEqual(capture([reader, writer]).blockers.length, 0);
    strictEqual(capture([outside[0]]).blockers[0]?.code, 'file.pipeOutside');
    strictEqual(capture([outside[1]], true).blockers[0]?.code, 'file.pipeOutside');
  });

  it('carries FIFOs: content, a hang-up, and a reader that never had a writer', () => {
    const path = (name: string) => {
      call('mknod', cString(join(folder, name)), 0o10600, 0);
      return join(folder, name);
    };
    const quiet = openFile(path('quiet'), O.rdonly | O.nonblock);
    const hungUpPath = path('hungUp');
    const hungUp = openFile(hungUpPath, O.rdonly | O.nonblock);
    const last = openFile(hungUpPath, O.wronly);
    write(last, 'left over');
    close(last);
    const both = openFile(path('both'), O.rdwr);
    write(both, 'held');
    carry([quiet, hungUp, both]);
    strictEqual(poll(quiet), 0);
    strictEqual(poll(hungUp) & 16, 16);
    strictEqual(read(hungUp), 'left over');
    strictEqual(read(both), 'held');
    strictEqual(flagsOf(both), O.rdwr);
  });

  it('carries eventfds beyond 32 bits, and semaphores', () => {
    const large = own(call('eventfd2', 0, 0));
    const count = Buffer.alloc(8);
    count.writeBigUInt64LE(0x123456789an);
    call('write', large, count, 8);
    const semaphore = own(call('eventfd2', 3, 1 | O.nonblock));
    carry([large, semaphore]);
    call('read', large, count, 8);
    strictEqual(count.readBigUInt64LE(), 0x123456789an);
    for (let i = 0; i < 3; i++) {
      call('read', semaphore, count, 8);
      strictEqual(count.readBigUInt64LE(), 1n);
    }
    strictEqual(sys('read', semaphore, count, 8), -11);
  });

  it('carries timers that run, have expired, or stand at a time of day', () => {
    const settime = (fd: number, flags: number, interval: bigint, value: bigint) => {
      const spec = Buffer.alloc(32);
      for (const [i, ns] of [interval, value].entries()) {
        spec.writeBigInt64LE(ns / 1_000_000_000n, i * 16);
        spec.writeBigInt64LE(ns % 1_000_000_000n, i * 16 + 8);
      }
      call('timerfd_settime', fd, flags, spec, null);
    };
    const create = (clock: number) => own(call('timerfd_create', clock, O.nonblock));
    const running = create(CLOCK_MONOTONIC);
    settime(running, 0, 0n, 3600_000_000_000n);
    const expired = create(CLOCK_MONOTONIC);
    settime(expired, 0, 0n, 1n);
    const ofDay = create(0);
    settime(ofDay, 1, 0n, BigInt(Date.now() + 7200_000) * 1_000_000n);
    const idle = create(CLOCK_MONOTONIC);
    poll(expired);
    carry([running, expired, ofDay, idle]);
    const left = (fd: number) => {
      const spec = Buffer.alloc(32);
      call('timerfd_gettime', fd, spec);
      return Number(spec.readBigInt64LE(16));
    };
    ok(left(running) >= 3590 && left(running) <= 3600, `${left(running)} s left`);
    ok(left(ofDay) >= 7190 && left(ofDay) <= 7200, `${left(ofDay)} s left`);
    ok(readFileSync(`/proc/self/fdinfo/${ofDay}`, 'utf8').includes('settime flags: 01'));
    const ticks = Buffer.alloc(8);
    call('read', expired, ticks, 8);
    strictEqual(ticks.readBigUInt64LE(), 1n);
    strictEqual(left(idle), 0);
    strictEqual(sys('read', idle, ticks, 8), -11);
  });

  it('brings a periodic timer that nobody has read up to date', async () => {
    const timer = own(call('timerfd_create', CLOCK_MONOTONIC, O.nonblock));
    const spec = Buffer.alloc(32);
    spec.writeBigInt64LE(5_000_000n, 8);
    spec.writeBigInt64LE(1_000_000n, 24);
    call('timerfd_settime', timer, 0, spec, null);
    await new Promise((resolve) => setTimeout(resolve, 40));
    const { ticks, intervalNs, remainingNs } = kindOf(capture([timer]).fileOf(timer), 'timerfd');
    ok(ticks >= 7n, `${ticks} ticks`);
    strictEqual(intervalNs, 5_000_000n);
    ok(remainingNs > 0n && remainingNs <= 5_000_000n, `${remainingNs} ns left`);
  });

  describe('epoll', () => {
    const add = (epoll: number, fd: number, events: number, data = BigInt(fd)) => {
      const event = Buffer.alloc(12);
      event.writeUInt32LE(events >>> 0, 0);
      event.writeBigUInt64LE(data, 4);
      call('epoll_ctl', epoll, 1, fd, event);
    };
    const wait = (epoll: number): [number, bigint][] => {
      const events = Buffer.alloc(12 * 16);
      const n = call('epoll_wait', epoll, events, 16, 0);
      return Array.from({ length: n }, (_, i) => [
        events.readUInt32LE(i * 12),
        events.readBigUInt64LE(i * 12 + 4),
      ]);
    };
    const create = () => own(call('epoll_create1', 0));

    it('carries what is watched, its data, and an instance within another', () => {
      const [reader, writer] = pipe();
      const inner = create();
      add(inner, reader, EPOLL.in, 0xfedcba9876543210n);
      const outer = create();
      add(outer, inner, EPOLL.in);
      carry([reader, writer, inner, outer]);
      deepStrictEqual(wait(outer), []);
      write(writer, 'x');
      deepStrictEqual(wait(outer), [[EPOLL.in, BigInt(inner)]]);
      deepStrictEqual(wait(inner), [[EPOLL.in, 0xfedcba9876543210n]]);
    });

    it('keeps a one-shot entry that has fired disabled, hang-ups included', () => {
      const [reader, writer] = pipe();
      const epoll = create();
      add(epoll, writer, EPOLL.out | EPOLL.oneshot);
      strictEqual(wait(epoll).length, 1);
      const [entry] = kindOf(capture([reader, writer, epoll]).fileOf(epoll), 'epoll').targets;
      strictEqual(entry?.events, EPOLL.oneshot);
      carry([reader, writer, epoll]);
      deepStrictEqual(wait(epoll), []);
      close(reader);
      deepStrictEqual(wait(epoll), []);
    });

    it('finds a file whose number was closed, and one whose number was reused', () => {
      const [reader, writer] = pipe();
      const epoll = create();
      const closed = own(call('dup', reader));
      add(epoll, closed, EPOLL.in, 1n);
      close(closed);
      const events = [own(call('eventfd2', 1, 0)), own(call('eventfd2', 0, 0))];
      const reused = own(call('fcntl', events[0]!, 0, 300));
      add(epoll, reused, EPOLL.in, 2n);
      call('dup3', events[1]!, reused, 0);
      const fds = [reader, writer, epoll, ...events, reused];
      const { fileOf, idOf } = capture(fds);
      const targets = kindOf(fileOf(epoll), 'epoll').targets;
      const fileAt = (data: bigint) => targets.find((target) => target.data === data)?.fileId;
      strictEqual(fileAt(1n), idOf(reader));
      strictEqual(fileAt(2n), idOf(events[0]!));
      carry(fds);
      deepStrictEqual(wait(epoll), [[EPOLL.in, 2n]]);
      write(writer, 'x');
      deepStrictEqual(
        wait(epoll)
          .map(([, data]) => data)
          .sort(),
        [1n, 2n],
      );
    });
  });

  it('carries owner, signal and locks of a description', () => {
    const [reader, writer] = pipe();
    const owner = Buffer.alloc(8);
    owner.writeInt32LE(1, 0);
    owner.writeInt32LE(process.pid, 4);
    call('fcntl', reader, 15, owner);
    call('fcntl', reader, 10, 12);
    const locked = openFile(join(folder, 'locked'), O.rdwr | O.creat);
    call('flock', locked, 2);
    const { fileOf } = capture([reader, writer, locked]);
    const { uid, euid, ...rest } = fileOf(reader).owner!;
    deepStrictEqual(rest, { pid: process.pid, type: 1, signal: 12 });
    deepStrictEqual([uid, euid], [process.getuid!(), process.geteuid!()]);
    deepStrictEqual(
      fileOf(locked).locks.map(({ kind, type }) => [kind, type]),
      [['flock', 1]],
    );
    carry([reader, writer, locked]);
    owner.fill(0);
    call('fcntl', reader, 16, owner);
    strictEqual(owner.readInt32LE(4), process.pid);
    strictEqual(call('fcntl', reader, 11), 12);
    const other = openFile(join(folder, 'locked'), O.rdwr);
    strictEqual(sys('flock', other, 2 | 4), -11);
  });

  it('carries a pidfd, and refuses one of a process outside', () => {
    const pidfd = own(call('pidfd_open', process.pid, O.nonblock));
    const copy = own(call('dup', pidfd));
    const outside = own(call('pidfd_open', 1, 0));
    strictEqual(capture([outside], true).blockers[0]?.code, 'file.pidfd');
    carry([pidfd, copy]);
    for (const fd of [pidfd, copy]) {
      ok(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').includes(`\nPid:\t${process.pid}\n`));
      strictEqual(flagsOf(fd), O.rdwr | O.nonblock);
    }
  });

  it('carries watches on files, under their numbers', () => {
    const fd = own(call('inotify_init1', O.nonblock));
    mkdirSync(join(folder, 'below'));
    const gone = call('inotify_add_watch', fd, cString(folder), 0x100);
    const kept = call('inotify_add_watch', fd, cString(join(folder, 'below')), 0x100);
    call('inotify_rm_watch', fd, gone);
    read(fd);
    carry([fd]);
    writeFileSync(join(folder, 'below/new'), '');
    const event = Buffer.from(read(fd), 'latin1');
    deepStrictEqual([event.readInt32LE(0), event.readUInt32LE(4)], [kept, 0x100]);
  });

  it('names what it cannot carry', () => {
    const fd = own(call('userfaultfd', 1));
    const { blockers } = capture([fd], true);
    deepStrictEqual(
      blockers.map(({ code, object }) => [code, object.split(' ')[1]]),
      [['file.userfaultfd', `${fd}`]],
    );
  });

  /** What poll(2) says of reading, within 20 ms. */
  function poll(fd: number): number {
    const pollfd = Buffer.alloc(8);
    pollfd.writeInt32LE(fd, 0);
    pollfd.writeInt16LE(1, 4);
    call('poll', pollfd, 1, 20);
    return pollfd.readInt16LE(6);
  }
});

describe('a semaphore on a kernel that does not tell', () => {
  it('is found out by reading, and the count is as before', async () => {
    const { probeSemaphore } = await import('../src/files/eventfd.js');
    const { DescriptorReader } = await import('../src/files/read-descriptors.js');
    for (const flags of [0, 1]) {
      for (const count of [0, 1, 2, 5]) {
        const fd = call('eventfd2', count, flags | O.nonblock);
        using reader = new DescriptorReader();
        const descriptor = reader.read(self, fd)!;
        strictEqual(probeSemaphore(descriptor, BigInt(count)), flags === 1);
        const now = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8');
        strictEqual(Number.parseInt(/eventfd-count: +(\w+)/.exec(now)![1]!, 16), count);
        sys('close', fd);
      }
    }
  });
});
