import { deepStrictEqual } from 'node:assert';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ProgramBuilder } from '@ferry/dumpbin';
import type { FileObject, TreeImage } from '@ferry/image';
import { call, KernelMemory, sys } from '@ferry/linux';
import type { EmitContext } from '../../../dumpbin/src/files/emit.js';
import { fileEmitters } from '../../../dumpbin/src/files/registry.js';
import { interpret } from '../../../dumpbin/test/support/interpret.js';
import { captureFiles, collectDescriptors } from '../../src/files/descriptors.js';
import { PidView } from '../../src/pid-view.js';

const self = { pid: process.pid, hostPid: process.pid, command: 'mocha' };
/** Restored sockets stand from here on, originals at whatever number the kernel gives. */
const SERVICE_BASE = 700;
export const AF = { unix: 1, inet: 2, inet6: 10 } as const;
export const SOCK = { stream: 1, dgram: 2, raw: 3, seqpacket: 5 } as const;
export const SOL = { socket: 1, tcp: 6, ip: 0, ipv6: 41 } as const;
export const SO = {
  reuse: 2,
  broadcast: 6,
  sndbuf: 7,
  rcvbuf: 8,
  keepalive: 9,
  linger: 13,
} as const;
export const SO_PASSCRED = 16;
export const SO_BUF_LOCK = 72;
export const SHUT_WR = 1;
const DONTWAIT = 0x40;
const NOSIGNAL = 0x4000;
export const POLLHUP = 16;
export const ERRNO = {
  again: -11,
  pipe: -32,
  reset: -104,
  refused: -111,
  notConnected: -107,
} as const;
const LOOPBACK = { 2: [127, 0, 0, 1], 10: [...Array<number>(15).fill(0), 1] } as const;

/** Captures sockets of this process, as a tree of its own that has nothing else. */
export function capture(fds: readonly number[], outcome: 'thawed' | 'killed' = 'killed') {
  const collected = collectDescriptors([self], { scanning: false });
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
    {
      scanning: false,
      sharedMemoryId: () => 1,
      namespaceId: () => 0,
      pids: new PidView(process.pid),
    },
  );
  captured.release(outcome);
  const idOf = (fd: number) =>
    captured.descriptorsOf(self.pid).find((descriptor) => descriptor.fd === fd)?.fileId;
  return { ...captured, idOf };
}

/** As where the kernel does not let its memory be read. */
export function withoutKernelMemory<T>(steps: () => T): T {
  const { open } = KernelMemory;
  KernelMemory.open = () => undefined;
  try {
    return steps();
  } finally {
    KernelMemory.open = open;
  }
}

export function unixName(text: string): Buffer {
  const isPath = !text.startsWith('@');
  return Buffer.from([AF.unix, 0, ...Buffer.from(isPath ? `${text}\0` : text.replace('@', '\0'))]);
}

export function address(family: 2 | 10, port: number): Buffer {
  const raw = Buffer.alloc(family === AF.inet ? 16 : 28);
  raw.writeUInt16LE(family, 0);
  raw.writeUInt16BE(port, 2);
  raw.set(LOOPBACK[family], family === AF.inet ? 4 : 8);
  return raw;
}

export function nameOf(fd: number, which: 'getsockname' | 'getpeername' = 'getsockname'): string {
  const raw = Buffer.alloc(128);
  const length = Buffer.of(128, 0, 0, 0);
  const result = sys(which, fd, raw, length);
  return result < 0 ? `error ${result}` : raw.toString('latin1', 0, length.readUInt32LE(0));
}

export function portOf(fd: number): number {
  return Buffer.from(nameOf(fd), 'latin1').readUInt16BE(2);
}

export function intOption(fd: number, level: number, name: number): number {
  const value = Buffer.alloc(4);
  call('getsockopt', fd, level, name, value, Buffer.of(4, 0, 0, 0));
  return value.readInt32LE(0);
}

export function setInt(fd: number, level: number, name: number, value: number): void {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  call('setsockopt', fd, level, name, bytes, 4);
}

export function send(fd: number, text: string | Buffer): number {
  const data = Buffer.from(text as string);
  return sys('sendto', fd, data, data.length, DONTWAIT | NOSIGNAL, null, 0);
}

export function sendTo(fd: number, text: string, to: Buffer): number {
  return sys('sendto', fd, Buffer.from(text), Buffer.byteLength(text), DONTWAIT, to, to.length);
}

/** What arrives next, or the errno. */
export function receive(fd: number, size = 65536): string | number {
  const data = Buffer.alloc(size);
  const result = sys('recvfrom', fd, data, size, DONTWAIT, null, null);
  return result < 0 ? result : data.toString('latin1', 0, result);
}

/** As receive, and from whom. */
export function receiveFrom(fd: number): [string, Buffer] {
  const data = Buffer.alloc(65536);
  const from = Buffer.alloc(128);
  const length = Buffer.of(128, 0, 0, 0);
  const result = call('recvfrom', fd, data, data.length, DONTWAIT, from, length);
  return [data.toString('latin1', 0, result), from.subarray(0, length.readUInt32LE(0))];
}

/** Packets over loopback arrive soon, but not at once. */
export function settle(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30);
}

/** Sends numbered words until the connection takes no more; how many bytes that were. */
export function fill(fd: number): number {
  const block = Buffer.alloc(4000);
  for (let sent = 0; ; ) {
    for (let i = 0; i < 1000; i++) block.writeUInt32LE(sent / 4 + i, i * 4);
    const n = send(fd, block);
    if (n < 0) return sent;
    sent += n;
  }
}

export function receiveAll(fd: number, length: number): Buffer {
  let received = Buffer.alloc(0);
  for (let quiet = 0; quiet < 100 && received.length < length; ) {
    const got = receive(fd, 1 << 20);
    if (got === '') break;
    if (typeof got === 'string') received = Buffer.concat([received, Buffer.from(got, 'latin1')]);
    else quiet++;
    if (typeof got === 'number') settle();
  }
  return received;
}

/** Sockets of one test, and what stands for a dump and a restore. Disposing closes everything. */
export interface SocketRig extends ReturnType<typeof makeRig> {}

export function makeRig() {
  const open: number[] = [];
  const folder = mkdtempSync(join(tmpdir(), 'ferry-sockets-'));
  let serial = 0;

  const own = (fd: number): number => {
    open.push(fd);
    return fd;
  };
  const socket = (family: number, type: number, protocol = 0) =>
    own(call('socket', family, type, protocol));
  const pair = (type: number): [number, number] => {
    const fds = Buffer.alloc(8);
    call('socketpair', AF.unix, type, 0, fds);
    return [own(fds.readInt32LE(0)), own(fds.readInt32LE(4))];
  };
  const close = (fd: number) => {
    sys('close', fd);
    open.splice(open.indexOf(fd), 1);
  };
  const abstractName = () => `@ferry-test-${process.pid}-${++serial}`;
  const bound = (name: string, type: number): number => {
    const fd = socket(AF.unix, type);
    call('bind', fd, unixName(name), unixName(name).length);
    return fd;
  };
  const listening = (name: string, type: number = SOCK.stream, backlog = 5): number => {
    const fd = bound(name, type);
    call('listen', fd, backlog);
    return fd;
  };
  const connected = (name: string, type: number = SOCK.stream): number => {
    const fd = socket(AF.unix, type);
    call('connect', fd, unixName(name), unixName(name).length);
    return fd;
  };
  const accept = (fd: number) => own(call('accept4', fd, 0, 0, 0));
  const tcpListener = (family: 2 | 10 = AF.inet): number => {
    const fd = socket(family, SOCK.stream);
    call('bind', fd, address(family, 0), address(family, 0).length);
    call('listen', fd, 7);
    return fd;
  };
  const tcpPair = (family: 2 | 10 = AF.inet): [number, number, number] => {
    const listener = tcpListener(family);
    const client = socket(family, SOCK.stream);
    const to = address(family, portOf(listener));
    call('connect', client, to, to.length);
    return [client, accept(listener), listener];
  };

  /** Captures, closes the originals, and makes the same sockets again; returns where they stand. */
  const again = (fds: readonly number[]): number[] => {
    const { files, blockers, idOf } = capture(fds);
    deepStrictEqual(blockers, []);
    for (const fd of fds) close(fd);
    const restored = restore(files);
    return fds.map((fd) => restored(idOf(fd)!));
  };
  const restore = (files: FileObject[]) => {
    const program = new ProgramBuilder();
    const done = new Set<string>();
    const position = (id: number) => files.findIndex((file) => file.id === id);
    const context: EmitContext = {
      image: { files, processes: [], sharedMemory: [], rootPid: self.pid } as unknown as TreeImage,
      serviceBase: SERVICE_BASE,
      fdOf: (id) => SERVICE_BASE + 16 + position(id),
      objectsEnd: SERVICE_BASE + 16 + files.length,
      coveredFd: () => 0,
      spaceFd: () => 0,
      sharedMemoryFd: () => -1,
      file: (id) => files[position(id)]!,
      once: (key) => !done.has(key) && done.add(key).size > 0,
    };
    const emitterOf = (file: FileObject) => fileEmitters[file.kind!.$case]!;
    for (const file of files) emitterOf(file).create(program, file, context);
    for (const file of files) emitterOf(file).connect?.(program, file, context);
    for (const file of files) emitterOf(file).resume?.(program, file, context);
    const before = descriptorsBelow();
    for (const { id } of files) own(context.fdOf(id));
    interpret(program);
    deepStrictEqual(descriptorsBelow(), before, 'descriptors were left open');
    return context.fdOf;
  };
  const descriptorsBelow = () =>
    Array.from({ length: 200 }, (_, fd) => fd).filter((fd) => sys('fcntl', fd, 1) >= 0);

  const dispose = () => {
    for (const fd of open.splice(0)) sys('close', fd);
    rmSync(folder, { recursive: true, force: true });
  };
  function sendDescriptors(fd: number, text: string, fds: readonly number[]): void {
    const program = new ProgramBuilder();
    const name = 'send descriptors';
    const header = program.reserve(56);
    const data = Buffer.from(text);
    const vector = program.words(0, data.length);
    program.storeAddress(program.bytes(data), vector, name);
    program.storeAddress(vector, header.plus(16), name);
    program.op('store', [header.plus(24), 1, 8], name);
    const control = Buffer.alloc(16 + ((fds.length * 4 + 7) & ~7));
    control.writeBigUInt64LE(BigInt(16 + fds.length * 4), 0);
    control.writeInt32LE(SOL.socket, 8);
    control.writeInt32LE(1, 12);
    fds.forEach((each, i) => {
      control.writeInt32LE(each, 16 + i * 4);
    });
    program.storeAddress(program.bytes(control), header.plus(32), name);
    program.op('store', [header.plus(40), control.length, 8], name);
    program.sys('sendmsg', [fd, header, 0], name, { expect: { value: data.length } });
    interpret(program);
  }
  return {
    folder,
    own,
    socket,
    pair,
    close,
    abstractName,
    bound,
    listening,
    connected,
    accept,
    tcpListener,
    tcpPair,
    again,
    restore,
    sendDescriptors,
    dispose,
  };
}
