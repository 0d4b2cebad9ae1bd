import { deepStrictEqual, ok, strictEqual } from 'node:assert';
import { chmodSync, mkdtempSync, rmSync, statSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { call, peekMessage } from '@ferry/linux';
import {
  AF,
  capture,
  ERRNO,
  intOption,
  makeRig,
  nameOf,
  receive,
  receiveAll,
  receiveFrom,
  SHUT_WR,
  SO,
  SO_BUF_LOCK,
  SO_PASSCRED,
  SOCK,
  SOL,
  type SocketRig,
  send,
  sendTo,
  setInt,
  unixName,
  withoutKernelMemory,
} from './support/sockets.js';

const SO_ERROR = 4;
const ECONNRESET = 104;
const ENOTCONN = 107;

describe('UNIX sockets, captured and made again', () => {
  let rig: SocketRig;

  beforeEach(() => {
    rig = makeRig();
  });

  afterEach(() => {
    rig.dispose();
  });

  for (const [name, type] of [
    ['stream', SOCK.stream],
    ['packet', SOCK.seqpacket],
  ] as const) {
    it(`a ${name} pair with data both ways`, () => {
      const [a, b] = rig.pair(type);
      send(a, 'to b');
      send(a, 'and more');
      send(b, 'to a');
      const [a2, b2] = rig.again([a, b]);
      strictEqual(receive(a2!), 'to a');
      if (type === SOCK.seqpacket) strictEqual(receive(b2!), 'to b');
      strictEqual(receive(b2!), type === SOCK.seqpacket ? 'and more' : 'to band more');
      send(a2!, 'afterwards');
      strictEqual(receive(b2!), 'afterwards');
    });
  }

  it('a pair whose buffer is full', () => {
    const [a, b] = rig.pair(SOCK.stream);
    let sent = '';
    for (let i = 0; send(a, String(i % 10).repeat(100)) === 100; i++) {
      sent += String(i % 10).repeat(100);
    }
    ok(sent.length > 10_000);
    const [a2, b2] = rig.again([a, b]);
    strictEqual(receive(b2!, sent.length + 100), sent);
    strictEqual(intOption(a2!, SOL.socket, SO.sndbuf), 212992);
    strictEqual(intOption(a2!, SOL.socket, SO_BUF_LOCK), 0);
  });

  it('accepted connections carry the name of their listening socket', () => {
    const name = rig.abstractName();
    const listener = rig.listening(name);
    const client = rig.connected(name);
    const server = rig.accept(listener);
    send(client, 'question');
    send(server, 'answer');
    const [l2, c2, s2] = rig.again([listener, client, server]);
    strictEqual(nameOf(s2!), unixName(name).toString('latin1'));
    strictEqual(nameOf(c2!, 'getpeername'), unixName(name).toString('latin1'));
    strictEqual(receive(s2!), 'question');
    strictEqual(receive(c2!), 'answer');
    rig.connected(name);
    ok(rig.accept(l2!) > 0);
  });

  it('accepted connections whose listening socket is closed', () => {
    const path = join(rig.folder, 'gone');
    const listener = rig.listening(path);
    const clients = [rig.connected(path), rig.connected(path)];
    const servers = [rig.accept(listener), rig.accept(listener)];
    rig.close(listener);
    unlinkSync(path);
    send(clients[1]!, 'two');
    const restored = rig.again([...clients, ...servers]);
    strictEqual(nameOf(restored[2]!), unixName(path).toString('latin1'));
    strictEqual(receive(restored[3]!), 'two');
    strictEqual(statSync(path, { throwIfNoEntry: false }), undefined);
  });

  it('a path keeps its file, with mode and owner', () => {
    const path = join(rig.folder, 'socket');
    const listener = rig.listening(path);
    chmodSync(path, 0o640);
    call('chown', Buffer.from(`${path}\0`), 12, 34);
    rig.again([listener]);
    const { mode, uid, gid } = statSync(path);
    deepStrictEqual([mode & 0o777, uid, gid], [0o640, 12, 34]);
    rig.connected(path);
  });

  it('a path that was removed, with its rig.folder, is not made again', () => {
    const inner = mkdtempSync(join(rig.folder, 'inner-'));
    const path = join(inner, 'socket');
    const listener = rig.listening(path);
    const client = rig.connected(path);
    const server = rig.accept(listener);
    const waiting = rig.connected(path);
    rmSync(inner, { recursive: true });
    send(client, 'still here');
    const [l2, , s2, w2] = rig.again([listener, client, server, waiting]);
    strictEqual(nameOf(l2!), unixName(path).toString('latin1'));
    strictEqual(receive(s2!), 'still here');
    const accepted = rig.accept(l2!);
    send(w2!, 'now');
    strictEqual(receive(accepted), 'now');
    strictEqual(statSync(inner, { throwIfNoEntry: false }), undefined);
  });

  it('clients that nobody has accepted yet, in order', () => {
    const name = rig.abstractName();
    const listener = rig.listening(name);
    const [first, second] = [rig.connected(name), rig.connected(name)];
    const [l2, f2, s2] = rig.again([listener, first, second]);
    send(f2!, 'first');
    send(s2!, 'second');
    strictEqual(receive(rig.accept(l2!)), 'first');
    strictEqual(receive(rig.accept(l2!)), 'second');
  });

  it('what clients have sent that nobody has accepted yet, though they may have closed', () => {
    const name = rig.abstractName();
    const listener = rig.listening(name);
    const [first, second] = [rig.connected(name), rig.connected(name)];
    const long = 'long '.repeat(4000);
    for (const text of ['first', long]) send(first, text);
    send(second, 'second');
    rig.close(second);
    const [l2, f2] = rig.again([listener, first]);
    send(f2!, 'and more');
    const server = rig.accept(l2!);
    strictEqual(receiveAll(server, 5 + long.length + 8).toString(), `first${long}and more`);
    const other = rig.accept(l2!);
    strictEqual(receive(other), 'second');
    strictEqual(receive(other), '');
  });

  it('a blocker where the kernel does not show what they have sent', () => {
    const name = rig.abstractName();
    const listener = rig.listening(name);
    const [first, second] = [rig.connected(name), rig.connected(name)];
    const silent = withoutKernelMemory(() => capture([listener, first, second], 'thawed'));
    deepStrictEqual(silent.blockers, []);
    send(first, 'first');
    rig.close(second);
    const { blockers } = withoutKernelMemory(() => capture([listener, first], 'thawed'));
    deepStrictEqual(blockers.map(({ code }) => code).sort(), [
      'socket.unixPending',
      'socket.unixPendingData',
    ]);
  });

  it('an end whose peer is closed still has its data, then ends', () => {
    const [a, b] = rig.pair(SOCK.stream);
    send(b, 'last words');
    rig.close(b);
    const [a2] = rig.again([a]);
    strictEqual(receive(a2!), 'last words');
    strictEqual(receive(a2!), '');
    strictEqual(send(a2!, 'x'), ERRNO.pipe);
  });

  it('an end whose peer was closed with data unread has a reset to tell', () => {
    const [a, b] = rig.pair(SOCK.stream);
    send(a, 'never read');
    rig.close(b);
    const [a2] = rig.again([a]);
    strictEqual(receive(a2!), ERRNO.reset);
    strictEqual(receive(a2!), '');
  });

  it('an accepted end whose client is closed, and the other way round', () => {
    const name = rig.abstractName();
    const listener = rig.listening(name);
    const [gone, client] = [rig.connected(name), rig.connected(name)];
    const [server, other] = [rig.accept(listener), rig.accept(listener)];
    send(gone, 'bye');
    rig.close(gone);
    rig.close(other);
    const [, c2, s2] = rig.again([listener, client, server]);
    strictEqual(nameOf(s2!), unixName(name).toString('latin1'));
    strictEqual(receive(s2!), 'bye');
    strictEqual(receive(s2!), '');
    strictEqual(receive(c2!), '');
    strictEqual(nameOf(c2!, 'getpeername'), unixName(name).toString('latin1'));
  });

  it('half closed ends', () => {
    const [a, b] = rig.pair(SOCK.stream);
    send(a, 'before the end');
    call('shutdown', a, SHUT_WR);
    const [a2, b2] = rig.again([a, b]);
    strictEqual(send(a2!, 'x'), ERRNO.pipe);
    strictEqual(receive(b2!), 'before the end');
    strictEqual(receive(b2!), '');
    send(b2!, 'back');
    strictEqual(receive(a2!), 'back');
  });

  it('datagrams wait in order, each from its sender', () => {
    const [to, from] = [rig.abstractName(), rig.abstractName()];
    const receiver = rig.bound(to, SOCK.dgram);
    const sender = rig.bound(from, SOCK.dgram);
    const gone = rig.bound(join(rig.folder, 'gone'), SOCK.dgram);
    const nameless = rig.socket(AF.unix, SOCK.dgram);
    sendTo(sender, 'one', unixName(to));
    sendTo(gone, 'two', unixName(to));
    sendTo(nameless, '', unixName(to));
    sendTo(nameless, 'four', unixName(to));
    rig.close(gone);
    const [r2] = rig.again([receiver, sender, nameless]);
    const messages = [1, 2, 3, 4].map(() => receiveFrom(r2!));
    deepStrictEqual(
      messages.map(([data]) => data),
      ['one', 'two', '', 'four'],
    );
    strictEqual(messages[0]![1].toString('latin1'), unixName(from).toString('latin1'));
    strictEqual(
      messages[1]![1].toString('latin1'),
      unixName(join(rig.folder, 'gone')).toString('latin1'),
    );
    strictEqual(receive(r2!), ERRNO.again);
  });

  it('datagrams to a socket whose path is gone', () => {
    const path = join(rig.folder, 'datagrams');
    const receiver = rig.bound(path, SOCK.dgram);
    const client = rig.connected(path, SOCK.dgram);
    send(client, 'one');
    unlinkSync(path);
    const [r2, c2] = rig.again([receiver, client]);
    send(c2!, 'two');
    deepStrictEqual([receive(r2!), receive(r2!)], ['one', 'two']);
    strictEqual(statSync(path, { throwIfNoEntry: false }), undefined);
  });

  it('a datagram pair, and an end of one whose peer is closed', () => {
    const [a, b] = rig.pair(SOCK.dgram);
    const [c, d] = rig.pair(SOCK.dgram);
    send(a, 'for b');
    send(d, 'for c');
    rig.close(d);
    const [a2, b2, c2] = rig.again([a, b, c]);
    strictEqual(receive(b2!), 'for b');
    send(b2!, 'back');
    strictEqual(receive(a2!), 'back');
    strictEqual(receive(c2!), 'for c');
    strictEqual(send(c2!, 'x'), ERRNO.refused);
  });

  for (const order of ['first', 'last']) {
    it(`an end of a datagram pair that was cut off, made ${order}`, () => {
      const [a, b] = rig.pair(SOCK.dgram);
      const unspecified = Buffer.alloc(2);
      send(a, 'from before');
      send(b, 'lost');
      call('connect', a, unspecified, unspecified.length);
      strictEqual(intOption(b, SOL.socket, SO_ERROR), ECONNRESET);
      send(b, 'one way');
      const again = rig.again(order === 'first' ? [a, b] : [b, a]);
      const [a2, b2] = order === 'first' ? again : again.toReversed();
      strictEqual(send(a2!, 'x'), -ENOTCONN);
      strictEqual(receive(b2!), 'from before');
      send(b2!, 'still');
      deepStrictEqual(
        [receive(a2!), receive(a2!), receive(a2!)],
        ['one way', 'still', ERRNO.again],
      );
    });
  }

  it('an end of a datagram pair that was cut off, and whose peer was closed then', () => {
    const [a, b] = rig.pair(SOCK.dgram);
    const unspecified = Buffer.alloc(2);
    call('connect', a, unspecified, unspecified.length);
    send(b, 'one way');
    rig.close(b);
    const [a2] = rig.again([a]);
    strictEqual(receive(a2!), 'one way');
    strictEqual(receive(a2!), ERRNO.again);
    strictEqual(send(a2!, 'x'), -ENOTCONN);
  });

  it('connected datagram sockets', () => {
    const [one, two] = [rig.abstractName(), rig.abstractName()];
    const a = rig.bound(one, SOCK.dgram);
    const b = rig.bound(two, SOCK.dgram);
    call('connect', a, unixName(two), unixName(two).length);
    sendTo(b, 'queued', unixName(one));
    const [a2, b2] = rig.again([a, b]);
    strictEqual(receive(a2!), 'queued');
    send(a2!, 'hello');
    strictEqual(receive(b2!), 'hello');
  });

  it('descriptors in flight', () => {
    const [a, b] = rig.pair(SOCK.stream);
    const [c, d] = rig.pair(SOCK.stream);
    send(c, 'through the one in flight');
    send(a, 'plain');
    rig.sendDescriptors(a, 'with one', [d]);
    const { files, blockers, idOf } = capture([a, b, c]);
    deepStrictEqual(blockers, []);
    for (const fd of [a, b, c, d]) rig.close(fd);
    const fdOf = rig.restore(files);
    const at = fdOf(idOf(b)!);
    const message = peekMessage(at, 100)!;
    strictEqual(message.data.toString(), 'plainwith one');
    const carried = rig.own(message.control[0]!.data.readInt32LE(0));
    strictEqual(receive(carried), 'through the one in flight');
  });

  it('options, buffers, and credentials with messages', () => {
    const [a, b] = rig.pair(SOCK.dgram);
    setInt(b, SOL.socket, SO_PASSCRED, 1);
    setInt(b, SOL.socket, SO.rcvbuf, 30000);
    send(a, 'from me');
    const [, b2] = rig.again([a, b]);
    strictEqual(intOption(b2!, SOL.socket, SO_PASSCRED), 1);
    strictEqual(intOption(b2!, SOL.socket, SO.rcvbuf), 60000);
    strictEqual(intOption(b2!, SOL.socket, SO_BUF_LOCK), 2);
    const [credentials] = peekMessage(b2!, 100)!.control;
    strictEqual(credentials!.data.readInt32LE(0), process.pid);
  });

  it('a peer outside the tree is a blocker with a remedy', () => {
    const [a] = rig.pair(SOCK.stream);
    const { blockers } = capture([a], 'thawed');
    strictEqual(blockers[0]?.code, 'socket.unixPeerOutside');
    ok(blockers[0].object.includes(`descriptor ${a} -> socket:[`));
  });
});
