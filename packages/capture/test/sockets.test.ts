import { deepStrictEqual, ok, strictEqual } from 'node:assert';
import { chmodSync, mkdtempSync, rmSync, statSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ProgramBuilder } from '@ferry/dumpbin';
import type { FileObject, TreeImage } from '@ferry/image';
import { call, peekMessage, pollNow, sys } from '@ferry/linux';
import type { EmitContext } from '../../dumpbin/src/files/emit.js';
import { fileEmitters } from '../../dumpbin/src/files/registry.js';
import { interpret } from '../../dumpbin/test/support/interpret.js';
import { captureFiles, collectDescriptors } from '../src/files/descriptors.js';

const self = { pid: process.pid, hostPid: process.pid, command: 'mocha' };
/** Restored sockets stand from here on, originals at whatever number the kernel gives. */
const SERVICE_BASE = 700;
const AF = { unix: 1, inet: 2, inet6: 10 } as const;
const SOCK = { stream: 1, dgram: 2, raw: 3, seqpacket: 5 } as const;
const SOL = { socket: 1, tcp: 6, ip: 0, ipv6: 41 } as const;
const SO = { reuse: 2, broadcast: 6, sndbuf: 7, rcvbuf: 8, keepalive: 9, linger: 13 } as const;
const SO_PASSCRED = 16;
const SO_BUF_LOCK = 72;
const SHUT_WR = 1;
const DONTWAIT = 0x40;
const NOSIGNAL = 0x4000;
const POLLHUP = 16;
const ERRNO = { again: -11, pipe: -32, reset: -104, refused: -111, notConnected: -107 } as const;
const LOOPBACK = { 2: [127, 0, 0, 1], 10: [...Array<number>(15).fill(0), 1] } as const;

/** Captures sockets of this process, as a tree of its own that has nothing else. */
function capture(fds: readonly number[], outcome: 'thawed' | 'killed' = 'killed') {
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
    { scanning: false, sharedMemoryId: () => 1 },
  );
  captured.release(outcome);
  const idOf = (fd: number) =>
    captured.descriptorsOf(self.pid).find((descriptor) => descriptor.fd === fd)?.fileId;
  return { ...captured, idOf };
}

function unixName(text: string): Buffer {
  const isPath = !text.startsWith('@');
  return Buffer.from([AF.unix, 0, ...Buffer.from(isPath ? `${text}\0` : text.replace('@', '\0'))]);
}

function address(family: 2 | 10, port: number): Buffer {
  const raw = Buffer.alloc(family === AF.inet ? 16 : 28);
  raw.writeUInt16LE(family, 0);
  raw.writeUInt16BE(port, 2);
  raw.set(LOOPBACK[family], family === AF.inet ? 4 : 8);
  return raw;
}

function nameOf(fd: number, which: 'getsockname' | 'getpeername' = 'getsockname'): string {
  const raw = Buffer.alloc(128);
  const length = Buffer.of(128, 0, 0, 0);
  const result = sys(which, fd, raw, length);
  return result < 0 ? `error ${result}` : raw.toString('latin1', 0, length.readUInt32LE(0));
}

function portOf(fd: number): number {
  return Buffer.from(nameOf(fd), 'latin1').readUInt16BE(2);
}

function intOption(fd: number, level: number, name: number): number {
  const value = Buffer.alloc(4);
  call('getsockopt', fd, level, name, value, Buffer.of(4, 0, 0, 0));
  return value.readInt32LE(0);
}

function setInt(fd: number, level: number, name: number, value: number): void {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  call('setsockopt', fd, level, name, bytes, 4);
}

function send(fd: number, text: string | Buffer): number {
  const data = Buffer.from(text as string);
  return sys('sendto', fd, data, data.length, DONTWAIT | NOSIGNAL, null, 0);
}

function sendTo(fd: number, text: string, to: Buffer): number {
  return sys('sendto', fd, Buffer.from(text), Buffer.byteLength(text), DONTWAIT, to, to.length);
}

/** What arrives next, or the errno. */
function receive(fd: number, size = 65536): string | number {
  const data = Buffer.alloc(size);
  const result = sys('recvfrom', fd, data, size, DONTWAIT, null, null);
  return result < 0 ? result : data.toString('latin1', 0, result);
}

/** As receive, and from whom. */
function receiveFrom(fd: number): [string, Buffer] {
  const data = Buffer.alloc(65536);
  const from = Buffer.alloc(128);
  const length = Buffer.of(128, 0, 0, 0);
  const result = call('recvfrom', fd, data, data.length, DONTWAIT, from, length);
  return [data.toString('latin1', 0, result), from.subarray(0, length.readUInt32LE(0))];
}

/** Packets over loopback arrive soon, but not at once. */
function settle(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30);
}

describe('sockets, captured and made again', () => {
  const open: number[] = [];
  let folder = '';
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

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-sockets-'));
  });

  afterEach(() => {
    for (const fd of open.splice(0)) sys('close', fd);
    rmSync(folder, { recursive: true, force: true });
  });

  describe('UNIX', () => {
    for (const [name, type] of [
      ['stream', SOCK.stream],
      ['packet', SOCK.seqpacket],
    ] as const) {
      it(`a ${name} pair with data both ways`, () => {
        const [a, b] = pair(type);
        send(a, 'to b');
        send(a, 'and more');
        send(b, 'to a');
        const [a2, b2] = again([a, b]);
        strictEqual(receive(a2!), 'to a');
        if (type === SOCK.seqpacket) strictEqual(receive(b2!), 'to b');
        strictEqual(receive(b2!), type === SOCK.seqpacket ? 'and more' : 'to band more');
        send(a2!, 'afterwards');
        strictEqual(receive(b2!), 'afterwards');
      });
    }

    it('a pair whose buffer is full', () => {
      const [a, b] = pair(SOCK.stream);
      let sent = '';
      for (let i = 0; send(a, String(i % 10).repeat(100)) === 100; i++) {
        sent += String(i % 10).repeat(100);
      }
      ok(sent.length > 10_000);
      const [a2, b2] = again([a, b]);
      strictEqual(receive(b2!, sent.length + 100), sent);
      strictEqual(intOption(a2!, SOL.socket, SO.sndbuf), 212992);
      strictEqual(intOption(a2!, SOL.socket, SO_BUF_LOCK), 0);
    });

    it('accepted connections carry the name of their listening socket', () => {
      const name = abstractName();
      const listener = listening(name);
      const client = connected(name);
      const server = accept(listener);
      send(client, 'question');
      send(server, 'answer');
      const [l2, c2, s2] = again([listener, client, server]);
      strictEqual(nameOf(s2!), unixName(name).toString('latin1'));
      strictEqual(nameOf(c2!, 'getpeername'), unixName(name).toString('latin1'));
      strictEqual(receive(s2!), 'question');
      strictEqual(receive(c2!), 'answer');
      connected(name);
      ok(accept(l2!) > 0);
    });

    it('accepted connections whose listening socket is closed', () => {
      const path = join(folder, 'gone');
      const listener = listening(path);
      const clients = [connected(path), connected(path)];
      const servers = [accept(listener), accept(listener)];
      close(listener);
      unlinkSync(path);
      send(clients[1]!, 'two');
      const restored = again([...clients, ...servers]);
      strictEqual(nameOf(restored[2]!), unixName(path).toString('latin1'));
      strictEqual(receive(restored[3]!), 'two');
      strictEqual(statSync(path, { throwIfNoEntry: false }), undefined);
    });

    it('a path keeps its file, with mode and owner', () => {
      const path = join(folder, 'socket');
      const listener = listening(path);
      chmodSync(path, 0o640);
      call('chown', Buffer.from(`${path}\0`), 12, 34);
      again([listener]);
      const { mode, uid, gid } = statSync(path);
      deepStrictEqual([mode & 0o777, uid, gid], [0o640, 12, 34]);
      connected(path);
    });

    it('a path that was removed, with its folder, is not made again', () => {
      const inner = mkdtempSync(join(folder, 'inner-'));
      const path = join(inner, 'socket');
      const listener = listening(path);
      const client = connected(path);
      const server = accept(listener);
      const waiting = connected(path);
      rmSync(inner, { recursive: true });
      send(client, 'still here');
      const [l2, , s2, w2] = again([listener, client, server, waiting]);
      strictEqual(nameOf(l2!), unixName(path).toString('latin1'));
      strictEqual(receive(s2!), 'still here');
      const accepted = accept(l2!);
      send(w2!, 'now');
      strictEqual(receive(accepted), 'now');
      strictEqual(statSync(inner, { throwIfNoEntry: false }), undefined);
    });

    it('clients that nobody has accepted yet, in order', () => {
      const name = abstractName();
      const listener = listening(name);
      const [first, second] = [connected(name), connected(name)];
      const [l2, f2, s2] = again([listener, first, second]);
      send(f2!, 'first');
      send(s2!, 'second');
      strictEqual(receive(accept(l2!)), 'first');
      strictEqual(receive(accept(l2!)), 'second');
    });

    it('an end whose peer is closed still has its data, then ends', () => {
      const [a, b] = pair(SOCK.stream);
      send(b, 'last words');
      close(b);
      const [a2] = again([a]);
      strictEqual(receive(a2!), 'last words');
      strictEqual(receive(a2!), '');
      strictEqual(send(a2!, 'x'), ERRNO.pipe);
    });

    it('an end whose peer was closed with data unread has a reset to tell', () => {
      const [a, b] = pair(SOCK.stream);
      send(a, 'never read');
      close(b);
      const [a2] = again([a]);
      strictEqual(receive(a2!), ERRNO.reset);
      strictEqual(receive(a2!), '');
    });

    it('an accepted end whose client is closed, and the other way round', () => {
      const name = abstractName();
      const listener = listening(name);
      const [gone, client] = [connected(name), connected(name)];
      const [server, other] = [accept(listener), accept(listener)];
      send(gone, 'bye');
      close(gone);
      close(other);
      const [, c2, s2] = again([listener, client, server]);
      strictEqual(nameOf(s2!), unixName(name).toString('latin1'));
      strictEqual(receive(s2!), 'bye');
      strictEqual(receive(s2!), '');
      strictEqual(receive(c2!), '');
      strictEqual(nameOf(c2!, 'getpeername'), unixName(name).toString('latin1'));
    });

    it('half closed ends', () => {
      const [a, b] = pair(SOCK.stream);
      send(a, 'before the end');
      call('shutdown', a, SHUT_WR);
      const [a2, b2] = again([a, b]);
      strictEqual(send(a2!, 'x'), ERRNO.pipe);
      strictEqual(receive(b2!), 'before the end');
      strictEqual(receive(b2!), '');
      send(b2!, 'back');
      strictEqual(receive(a2!), 'back');
    });

    it('datagrams wait in order, each from its sender', () => {
      const [to, from] = [abstractName(), abstractName()];
      const receiver = bound(to, SOCK.dgram);
      const sender = bound(from, SOCK.dgram);
      const gone = bound(join(folder, 'gone'), SOCK.dgram);
      const nameless = socket(AF.unix, SOCK.dgram);
      sendTo(sender, 'one', unixName(to));
      sendTo(gone, 'two', unixName(to));
      sendTo(nameless, '', unixName(to));
      sendTo(nameless, 'four', unixName(to));
      close(gone);
      const [r2] = again([receiver, sender, nameless]);
      const messages = [1, 2, 3, 4].map(() => receiveFrom(r2!));
      deepStrictEqual(
        messages.map(([data]) => data),
        ['one', 'two', '', 'four'],
      );
      strictEqual(messages[0]![1].toString('latin1'), unixName(from).toString('latin1'));
      strictEqual(
        messages[1]![1].toString('latin1'),
        unixName(join(folder, 'gone')).toString('latin1'),
      );
      strictEqual(receive(r2!), ERRNO.again);
    });

    it('datagrams to a socket whose path is gone', () => {
      const path = join(folder, 'datagrams');
      const receiver = bound(path, SOCK.dgram);
      const client = connected(path, SOCK.dgram);
      send(client, 'one');
      unlinkSync(path);
      const [r2, c2] = again([receiver, client]);
      send(c2!, 'two');
      deepStrictEqual([receive(r2!), receive(r2!)], ['one', 'two']);
      strictEqual(statSync(path, { throwIfNoEntry: false }), undefined);
    });

    it('a datagram pair, and an end of one whose peer is closed', () => {
      const [a, b] = pair(SOCK.dgram);
      const [c, d] = pair(SOCK.dgram);
      send(a, 'for b');
      send(d, 'for c');
      close(d);
      const [a2, b2, c2] = again([a, b, c]);
      strictEqual(receive(b2!), 'for b');
      send(b2!, 'back');
      strictEqual(receive(a2!), 'back');
      strictEqual(receive(c2!), 'for c');
      strictEqual(send(c2!, 'x'), ERRNO.refused);
    });

    it('connected datagram sockets', () => {
      const [one, two] = [abstractName(), abstractName()];
      const a = bound(one, SOCK.dgram);
      const b = bound(two, SOCK.dgram);
      call('connect', a, unixName(two), unixName(two).length);
      sendTo(b, 'queued', unixName(one));
      const [a2, b2] = again([a, b]);
      strictEqual(receive(a2!), 'queued');
      send(a2!, 'hello');
      strictEqual(receive(b2!), 'hello');
    });

    it('descriptors in flight', () => {
      const [a, b] = pair(SOCK.stream);
      const [c, d] = pair(SOCK.stream);
      send(c, 'through the one in flight');
      send(a, 'plain');
      sendDescriptors(a, 'with one', [d]);
      const { files, blockers, idOf } = capture([a, b, c]);
      deepStrictEqual(blockers, []);
      for (const fd of [a, b, c, d]) close(fd);
      const fdOf = restore(files);
      const at = fdOf(idOf(b)!);
      const message = peekMessage(at, 100)!;
      strictEqual(message.data.toString(), 'plainwith one');
      const carried = own(message.control[0]!.data.readInt32LE(0));
      strictEqual(receive(carried), 'through the one in flight');
    });

    it('options, buffers, and credentials with messages', () => {
      const [a, b] = pair(SOCK.dgram);
      setInt(b, SOL.socket, SO_PASSCRED, 1);
      setInt(b, SOL.socket, SO.rcvbuf, 30000);
      send(a, 'from me');
      const [, b2] = again([a, b]);
      strictEqual(intOption(b2!, SOL.socket, SO_PASSCRED), 1);
      strictEqual(intOption(b2!, SOL.socket, SO.rcvbuf), 60000);
      strictEqual(intOption(b2!, SOL.socket, SO_BUF_LOCK), 2);
      const [credentials] = peekMessage(b2!, 100)!.control;
      strictEqual(credentials!.data.readInt32LE(0), process.pid);
    });

    it('a peer outside the tree is a blocker with a remedy', () => {
      const [a] = pair(SOCK.stream);
      const { blockers } = capture([a], 'thawed');
      strictEqual(blockers[0]?.code, 'socket.unixPeerOutside');
      ok(blockers[0].object.includes(`descriptor ${a} -> socket:[`));
    });
  });

  describe('TCP', () => {
    for (const family of [AF.inet, AF.inet6] as const) {
      const version = family === AF.inet ? 'IPv4' : 'IPv6';

      it(`${version}: a connection with both queues full`, () => {
        const [client, server, listener] = tcpPair(family);
        let sent = 0;
        const block = Buffer.alloc(4000);
        for (;;) {
          for (let i = 0; i < 1000; i++) block.writeUInt32LE(sent / 4 + i, i * 4);
          const n = send(client, block);
          if (n < 0) break;
          sent += n;
        }
        send(server, 'an answer');
        settle();
        const [c2, s2] = again([client, server, listener]);
        strictEqual(receive(c2!), 'an answer');
        let received = Buffer.alloc(0);
        for (let quiet = 0; quiet < 100 && received.length < sent; ) {
          const got = receive(s2!, 1 << 20);
          if (typeof got === 'number') {
            settle();
            quiet++;
          } else received = Buffer.concat([received, Buffer.from(got, 'latin1')]);
        }
        strictEqual(received.length, sent);
        for (let i = 0; i + 4 <= sent; i += 4) {
          if (received.readUInt32LE(i) !== i / 4) strictEqual(received.readUInt32LE(i), i / 4);
        }
      });

      it(`${version}: half closed, each way`, () => {
        const [client, server, listener] = tcpPair(family);
        send(client, 'the end');
        call('shutdown', client, SHUT_WR);
        settle();
        const [c2, s2] = again([client, server, listener]);
        strictEqual(receive(s2!), 'the end');
        strictEqual(receive(s2!), '');
        strictEqual(send(c2!, 'x'), ERRNO.pipe);
        send(s2!, 'back');
        settle();
        strictEqual(receive(c2!), 'back');
        close(s2!);
        settle();
        strictEqual(receive(c2!), '');
      });
    }

    it('options of every level', () => {
      const [client, server, listener] = tcpPair();
      setInt(client, SOL.tcp, 1, 1);
      setInt(client, SOL.tcp, 4, 77);
      setInt(client, SOL.tcp, 18, 12345);
      setInt(client, SOL.socket, SO.keepalive, 1);
      setInt(client, SOL.ip, 1, 0x10);
      setInt(client, SOL.socket, SO.sndbuf, 50000);
      setInt(listener, SOL.socket, SO.reuse, 1);
      const [c2, s2, l2] = again([client, server, listener]);
      deepStrictEqual(
        [
          intOption(c2!, SOL.tcp, 1),
          intOption(c2!, SOL.tcp, 4),
          intOption(c2!, SOL.tcp, 18),
          intOption(c2!, SOL.socket, SO.keepalive),
          intOption(c2!, SOL.ip, 1),
          intOption(c2!, SOL.socket, SO.sndbuf),
          intOption(c2!, SOL.socket, SO.reuse),
          intOption(l2!, SOL.socket, SO.reuse),
          intOption(s2!, SOL.socket, SO.reuse),
        ],
        [1, 77, 12345, 1, 0x10, 100000, 0, 1, 0],
      );
    });

    it('a look leaves SO_REUSEADDR and the connection as they were', () => {
      const [client, server, listener] = tcpPair();
      setInt(client, SOL.socket, SO.reuse, 1);
      send(server, 'peeked, not read');
      settle();
      capture([client, server, listener], 'thawed');
      strictEqual(intOption(client, SOL.socket, SO.reuse), 1);
      strictEqual(intOption(client, SOL.tcp, 19), 0);
      strictEqual(receive(client), 'peeked, not read');
      send(client, 'goes on');
      settle();
      strictEqual(receive(server), 'goes on');
    });

    it('a client that nobody has accepted yet', () => {
      const listener = tcpListener();
      const client = socket(AF.inet, SOCK.stream);
      const to = address(AF.inet, portOf(listener));
      call('connect', client, to, to.length);
      const [l2, c2] = again([listener, client]);
      send(c2!, 'hello');
      settle();
      strictEqual(receive(accept(l2!)), 'hello');
    });

    it('connections that are over: with data, with a reset', () => {
      const [client, server, listener] = tcpPair();
      send(server, 'unread');
      call('shutdown', server, SHUT_WR);
      settle();
      call('shutdown', client, SHUT_WR);
      settle();
      // Without the listener: its port is taken by a connection in TIME_WAIT.
      const [c2] = again([client, server]);
      close(listener);
      strictEqual(receive(c2!), 'unread');
      strictEqual(receive(c2!), '');
      strictEqual(send(c2!, 'x'), ERRNO.pipe);
      const [reset, by] = tcpPair();
      call('setsockopt', by, SOL.socket, SO.linger, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]), 8);
      close(by);
      settle();
      const [r2] = again([reset]);
      strictEqual(receive(r2!), ERRNO.reset);
    });

    it('sockets that are bound, or fresh', () => {
      const fresh = socket(AF.inet6, SOCK.stream);
      setInt(fresh, SOL.ipv6, 26, 1);
      const one = socket(AF.inet, SOCK.stream);
      call('bind', one, address(AF.inet, 0), 16);
      const port = portOf(one);
      const [o2, f2] = again([one, fresh]);
      strictEqual(portOf(o2!), port);
      strictEqual(intOption(f2!, SOL.ipv6, 26), 1);
      strictEqual(receive(f2!), ERRNO.notConnected);
      ok((pollNow(f2!, 0) & POLLHUP) !== 0);
    });

    it('a listening MPTCP socket', function () {
      const made = sys('socket', AF.inet, SOCK.stream, 262);
      if (made < 0) this.skip();
      const listener = own(made);
      call('bind', listener, address(AF.inet, 0), 16);
      call('listen', listener, 3);
      const port = portOf(listener);
      const [l2] = again([listener]);
      strictEqual(intOption(l2!, SOL.socket, 38), 262);
      const client = socket(AF.inet, SOCK.stream);
      call('connect', client, address(AF.inet, port), 16);
      send(client, 'over TCP');
      settle();
      strictEqual(receive(accept(l2!)), 'over TCP');
    });
  });

  describe('UDP', () => {
    for (const family of [AF.inet, AF.inet6] as const) {
      it(`${family === AF.inet ? 'IPv4' : 'IPv6'}: datagrams wait, connected and not`, () => {
        const receiver = socket(family, SOCK.dgram);
        call('bind', receiver, address(family, 0), address(family, 0).length);
        const to = address(family, portOf(receiver));
        const sender = socket(family, SOCK.dgram);
        call('connect', sender, to, to.length);
        setInt(sender, SOL.socket, SO.broadcast, 1);
        for (const text of ['one', '', 'three'.repeat(300)]) send(sender, text);
        const port = portOf(sender);
        const [r2, s2] = again([receiver, sender]);
        const messages = [1, 2, 3].map(() => receiveFrom(r2!));
        deepStrictEqual(
          messages.map(([data]) => data),
          ['one', '', 'three'.repeat(300)],
        );
        for (const [, from] of messages) strictEqual(from.readUInt16BE(2), port);
        send(s2!, 'afterwards');
        strictEqual(receive(r2!), 'afterwards');
        strictEqual(intOption(s2!, SOL.socket, SO.broadcast), 1);
        strictEqual(intOption(r2!, SOL.socket, SO.reuse), 0);
      });
    }

    it('multicast groups', () => {
      const fd = socket(AF.inet, SOCK.dgram);
      call('bind', fd, address(AF.inet, 0), 16);
      const request = Buffer.from([239, 1, 2, 3, 127, 0, 0, 1, 1, 0, 0, 0]);
      call('setsockopt', fd, SOL.ip, 35, request, 12);
      const [m2] = again([fd]);
      const leave = sys('setsockopt', m2!, SOL.ip, 36, request, 12);
      strictEqual(leave, 0, 'it had joined the group');
    });
  });

  it('other kinds are refused, each with a remedy', () => {
    const raw = socket(AF.inet, SOCK.raw, 1);
    const netlink = socket(16, SOCK.raw, 0);
    const { blockers } = capture([raw, netlink], 'thawed');
    deepStrictEqual(
      blockers.map(({ code }) => code),
      ['socket.raw', 'socket.netlink'],
    );
    for (const { remedy } of blockers) ok(remedy.length > 0);
  });

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
});
