import { deepStrictEqual, ok, strictEqual } from 'node:assert';
import { call, pollNow, sys } from '@ferry/linux';
import {
  AF,
  address,
  capture,
  ERRNO,
  fill,
  intOption,
  makeRig,
  POLLHUP,
  portOf,
  receive,
  receiveAll,
  receiveFrom,
  SHUT_WR,
  SO,
  SOCK,
  SOL,
  type SocketRig,
  send,
  setInt,
  settle,
  withoutKernelMemory,
} from './support/sockets.js';

describe('TCP and UDP sockets, captured and made again', () => {
  let rig: SocketRig;

  beforeEach(() => {
    rig = makeRig();
  });

  afterEach(() => {
    rig.dispose();
  });

  describe('TCP', () => {
    for (const family of [AF.inet, AF.inet6] as const) {
      const version = family === AF.inet ? 'IPv4' : 'IPv6';

      it(`${version}: a connection with both queues full`, () => {
        const [client, server, listener] = rig.tcpPair(family);
        const sent = fill(client);
        send(server, 'an answer');
        settle();
        const [c2, s2] = rig.again([client, server, listener]);
        strictEqual(receive(c2!), 'an answer');
        const received = receiveAll(s2!, sent);
        strictEqual(received.length, sent);
        for (let i = 0; i + 4 <= sent; i += 4) {
          if (received.readUInt32LE(i) !== i / 4) strictEqual(received.readUInt32LE(i), i / 4);
        }
      });

      it(`${version}: half closed behind data that was not sent yet`, () => {
        const [client, server, listener] = rig.tcpPair(family);
        const sent = fill(client);
        call('shutdown', server, SHUT_WR);
        settle();
        call('shutdown', client, SHUT_WR);
        const [c2, s2] = rig.again([client, server, listener]);
        strictEqual(receive(c2!), '');
        strictEqual(receiveAll(s2!, sent).length, sent);
        settle();
        strictEqual(receive(s2!), '');
        strictEqual(send(s2!, 'x'), ERRNO.pipe);
      });

      it(`${version}: closing before everything was sent`, () => {
        const [client, server, listener] = rig.tcpPair(family);
        const sent = fill(client);
        call('shutdown', client, SHUT_WR);
        const [c2, s2] = rig.again([client, server, listener]);
        strictEqual(receiveAll(s2!, sent).length, sent);
        settle();
        strictEqual(receive(s2!), '');
        send(s2!, 'answer');
        settle();
        strictEqual(receive(c2!), 'answer');
      });

      it(`${version}: half closed, each way`, () => {
        const [client, server, listener] = rig.tcpPair(family);
        send(client, 'the end');
        call('shutdown', client, SHUT_WR);
        settle();
        const [c2, s2] = rig.again([client, server, listener]);
        strictEqual(receive(s2!), 'the end');
        strictEqual(receive(s2!), '');
        strictEqual(send(c2!, 'x'), ERRNO.pipe);
        send(s2!, 'back');
        settle();
        strictEqual(receive(c2!), 'back');
        rig.close(s2!);
        settle();
        strictEqual(receive(c2!), '');
      });
    }

    it('options of every level', () => {
      const [client, server, listener] = rig.tcpPair();
      setInt(client, SOL.tcp, 1, 1);
      setInt(client, SOL.tcp, 4, 77);
      setInt(client, SOL.tcp, 18, 12345);
      setInt(client, SOL.socket, SO.keepalive, 1);
      setInt(client, SOL.ip, 1, 0x10);
      setInt(client, SOL.socket, SO.sndbuf, 50000);
      setInt(listener, SOL.socket, SO.reuse, 1);
      const [c2, s2, l2] = rig.again([client, server, listener]);
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
      const [client, server, listener] = rig.tcpPair();
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
      const listener = rig.tcpListener();
      const client = rig.socket(AF.inet, SOCK.stream);
      const to = address(AF.inet, portOf(listener));
      call('connect', client, to, to.length);
      const [l2, c2] = rig.again([listener, client]);
      send(c2!, 'hello');
      settle();
      strictEqual(receive(rig.accept(l2!)), 'hello');
    });

    it('what clients have sent that nobody has accepted yet, though they may have closed', () => {
      const [listener, first, second] = waitingClients('much '.repeat(4000), 'second');
      rig.close(second);
      settle();
      const [l2, f2] = rig.again([listener, first]);
      send(f2!, 'and more');
      const server = rig.accept(l2!);
      const found = receiveAll(server, 20_008).toString();
      strictEqual(found, `${'much '.repeat(4000)}and more`);
      const other = rig.accept(l2!);
      strictEqual(receiveAll(other, 6).toString(), 'second');
      strictEqual(receive(other), '');
    });

    it('a blocker where the kernel does not show what they have sent', () => {
      const [listener, first, second] = waitingClients('first', 'second');
      const fds = [listener, first, second];
      const { blockers } = withoutKernelMemory(() => capture(fds, 'thawed'));
      deepStrictEqual(
        blockers.map(({ code }) => code),
        ['socket.tcpPending'],
      );
    });

    /** Clients that have connected and sent something. */
    function waitingClients(...texts: readonly [string, string]): [number, number, number] {
      const listener = rig.tcpListener();
      const to = address(AF.inet, portOf(listener));
      const [first, second] = texts.map((text) => {
        const client = rig.socket(AF.inet, SOCK.stream);
        call('connect', client, to, to.length);
        send(client, text);
        return client;
      });
      settle();
      return [listener, first!, second!];
    }

    it('connections that are over: with data, with a reset', () => {
      const [client, server, listener] = rig.tcpPair();
      send(server, 'unread');
      call('shutdown', server, SHUT_WR);
      settle();
      call('shutdown', client, SHUT_WR);
      settle();
      // Without the listener: its port is taken by a connection in TIME_WAIT.
      const [c2] = rig.again([client, server]);
      rig.close(listener);
      strictEqual(receive(c2!), 'unread');
      strictEqual(receive(c2!), '');
      strictEqual(send(c2!, 'x'), ERRNO.pipe);
      const [reset, by] = rig.tcpPair();
      call('setsockopt', by, SOL.socket, SO.linger, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]), 8);
      rig.close(by);
      settle();
      const [r2] = rig.again([reset]);
      strictEqual(receive(r2!), ERRNO.reset);
    });

    it('sockets that are bound, or fresh', () => {
      const fresh = rig.socket(AF.inet6, SOCK.stream);
      setInt(fresh, SOL.ipv6, 26, 1);
      const one = rig.socket(AF.inet, SOCK.stream);
      call('bind', one, address(AF.inet, 0), 16);
      const port = portOf(one);
      const [o2, f2] = rig.again([one, fresh]);
      strictEqual(portOf(o2!), port);
      strictEqual(intOption(f2!, SOL.ipv6, 26), 1);
      strictEqual(receive(f2!), ERRNO.notConnected);
      ok((pollNow(f2!, 0) & POLLHUP) !== 0);
    });

    it('a listening MPTCP socket', function () {
      const made = sys('socket', AF.inet, SOCK.stream, 262);
      // A kernel without CONFIG_MPTCP, or with net.mptcp.enabled=0.
      if (made < 0) this.skip();
      const listener = rig.own(made);
      call('bind', listener, address(AF.inet, 0), 16);
      call('listen', listener, 3);
      const port = portOf(listener);
      const [l2] = rig.again([listener]);
      strictEqual(intOption(l2!, SOL.socket, 38), 262);
      const client = rig.socket(AF.inet, SOCK.stream);
      call('connect', client, address(AF.inet, port), 16);
      send(client, 'over TCP');
      settle();
      strictEqual(receive(rig.accept(l2!)), 'over TCP');
    });
  });

  describe('UDP', () => {
    for (const family of [AF.inet, AF.inet6] as const) {
      it(`${family === AF.inet ? 'IPv4' : 'IPv6'}: datagrams wait, connected and not`, () => {
        const receiver = rig.socket(family, SOCK.dgram);
        call('bind', receiver, address(family, 0), address(family, 0).length);
        const to = address(family, portOf(receiver));
        const sender = rig.socket(family, SOCK.dgram);
        call('connect', sender, to, to.length);
        setInt(sender, SOL.socket, SO.broadcast, 1);
        for (const text of ['one', '', 'three'.repeat(300)]) send(sender, text);
        const port = portOf(sender);
        const [r2, s2] = rig.again([receiver, sender]);
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
      const fd = rig.socket(AF.inet, SOCK.dgram);
      call('bind', fd, address(AF.inet, 0), 16);
      const request = Buffer.from([239, 1, 2, 3, 127, 0, 0, 1, 1, 0, 0, 0]);
      call('setsockopt', fd, SOL.ip, 35, request, 12);
      const [m2] = rig.again([fd]);
      const leave = sys('setsockopt', m2!, SOL.ip, 36, request, 12);
      strictEqual(leave, 0, 'it had joined the group');
    });
  });

  it('other kinds are refused, each with a remedy', () => {
    const vsock = rig.socket(40, SOCK.stream);
    const { blockers } = capture([vsock], 'thawed');
    deepStrictEqual(
      blockers.map(({ code }) => code),
      ['socket.vsock'],
    );
    for (const { remedy } of blockers) ok(remedy.length > 0);
  });
});
