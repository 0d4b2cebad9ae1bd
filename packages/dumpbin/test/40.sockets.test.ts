import { deepStrictEqual, ok, strictEqual } from 'node:assert';
import { type FileObject, InetSocket, TcpState, type TreeImage, UnixSocket } from '@ferry/image';
import type { EmitContext } from '../src/files/emit.js';
import { TCP_FLAG, tcpPacket, udpPacket } from '../src/files/inet-packets.js';
import { fileEmitters } from '../src/files/registry.js';
import { ProgramBuilder } from '../src/index.js';

const BASE = 100;
const AF = { unix: 1, inet: 2 } as const;
const STATE = { established: 1, finWait1: 4, close: 7, closeWait: 8, listen: 10 } as const;
const here = Buffer.from([10, 0, 0, 1]);
const there = Buffer.from([10, 0, 0, 2]);

/** The steps of each phase, as `name(args)`. */
function phases(kinds: NonNullable<FileObject['kind']>[]): Record<string, string[]> {
  const files = kinds.map(
    (kind, i): FileObject => ({
      id: i + 1,
      flags: 2,
      position: 0n,
      owner: undefined,
      lost: '',
      networkNamespaceId: 0,
      mountNamespaceId: 0,
      locks: [],
      kind,
    }),
  );
  const done = new Set<string>();
  const ctx: EmitContext = {
    image: { files, processes: [], sharedMemory: [], rootPid: 1 } as unknown as TreeImage,
    serviceBase: BASE,
    fdOf: (id) => BASE + 16 + id - 1,
    objectsEnd: BASE + 16 + files.length,
    coveredFd: () => 0,
    spaceFd: () => 0,
    sharedMemoryFd: () => -1,
    file: (id) => files[id - 1]!,
    once: (key) => !done.has(key) && done.add(key).size > 0,
  };
  const steps: Record<string, string[]> = {};
  const b = new ProgramBuilder();
  let from = 0;
  for (const phase of ['create', 'connect', 'resume'] as const) {
    for (const file of files) fileEmitters[file.kind!.$case]![phase]?.(b, file, ctx);
    const all = b.describe();
    steps[phase] = all.slice(from);
    from = all.length;
  }
  return steps;
}

function tcp(socket: Partial<InetSocket>, state?: Partial<TcpState>): FileObject['kind'] & object {
  const value = InetSocket.fromPartial({
    family: AF.inet,
    type: 1,
    protocol: 6,
    localAddress: here,
    localPort: 80,
    ...socket,
  });
  if (state !== undefined) value.tcp = TcpState.fromPartial(state);
  return { $case: 'inet', value };
}

function unix(socket: Partial<UnixSocket>): FileObject['kind'] & object {
  return { $case: 'unix', value: UnixSocket.fromPartial({ type: 1, ...socket }) };
}

/** The positions of steps whose line contains each of `texts`, which must all exist. */
function order(steps: readonly string[], ...texts: string[]): number[] {
  return texts.map((text) => {
    const at = steps.findIndex((step) => step.includes(text));
    ok(at >= 0, `no step "${text}" in\n${steps.join('\n')}`);
    return at;
  });
}

function ascends(positions: readonly number[]): boolean {
  return positions.every((at, i) => i === 0 || at > positions[i - 1]!);
}

const remote = { remoteAddress: there, remotePort: 1234 };

describe('sockets in programs', () => {
  it('a connection is made in repair mode and leaves it when the tree runs', () => {
    const { create, connect, resume } = phases([
      tcp(
        { state: STATE.established, ...remote },
        { sendQueue: Buffer.from('sent and not'), unsent: 3, receiveQueue: Buffer.from('read') },
      ),
    ]);
    ok(
      ascends(
        order(create!, 'repair mode', 'send sequence', 'bind', 'connect', 'handshake', ': sent'),
      ),
    );
    strictEqual(create!.filter((step) => step.includes('not sent yet')).length, 0);
    strictEqual(connect!.filter((step) => step.includes('leave repair')).length, 0);
    ok(ascends(order(resume!, 'leave repair mode', 'what was not sent yet')));
    const unsent = resume!.find((step) => step.startsWith('sendto'))!;
    ok(unsent.includes(', 3, '), unsent);
  });

  it("the peer's FIN arrives before ours is queued, and when its end is there to hear the answer", () => {
    const LAST_ACK = 9;
    const { create, connect } = phases([tcp({ state: LAST_ACK, ...remote }, {})]);
    ok(ascends(order(connect!, 'packet from the peer', 'wait for TCP socket 1', 'half close')));
    ok(!create!.some((step) => /packet from the peer|half close/.test(step)), create!.join('\n'));
  });

  it('a FIN behind unsent data goes out behind it', () => {
    const { create, connect, resume } = phases([
      tcp(
        { state: STATE.finWait1, ...remote },
        { sendQueue: Buffer.from('late'), unsent: 4, finUnsent: true },
      ),
    ]);
    const early = [...create!, ...connect!];
    strictEqual(early.filter((step) => step.startsWith('shutdown')).length, 0);
    ok(ascends(order(resume!, 'what was not sent yet', 'half close')));
  });

  it('every port is bound before any socket listens', () => {
    const { create, connect } = phases([
      tcp({ state: STATE.listen, backlog: 5 }),
      tcp({ state: STATE.close, localAddress: there }),
    ]);
    strictEqual(create!.filter((step) => step.startsWith('bind')).length, 2);
    strictEqual(create!.filter((step) => step.startsWith('listen')).length, 0);
    deepStrictEqual(
      connect!.filter((step) => step.startsWith('listen')),
      ['listen(116, 5)  # listen on TCP socket 1 (10.0.0.1:80)'],
    );
  });

  it('accepted ends come from their listening socket, clients that wait come last', () => {
    const address = Buffer.from('\0name');
    const { create } = phases([
      unix({ inode: 1n, state: STATE.listen, address, backlog: 3, pendingInodes: [4n] }),
      unix({ inode: 2n, state: STATE.established, peerInode: 3n }),
      unix({ inode: 3n, state: STATE.established, peerInode: 2n, address }),
      unix({ inode: 4n, state: STATE.established, pendingOnInode: 1n }),
    ]);
    strictEqual(create!.filter((step) => step.startsWith('socketpair')).length, 0);
    strictEqual(create!.filter((step) => step.startsWith('accept4')).length, 1);
    ok(
      ascends(
        order(create!, 'bind', 'listen(116, 3)', 'connect(117', 'accept4(116', 'connect(119'),
      ),
    );
  });

  it('clients that wait send again what they had sent, and those that had closed close again', () => {
    const address = Buffer.from('\0name');
    const message = (text: string) => ({
      data: Buffer.from(text),
      fileIds: [],
      sourceAddress: Buffer.alloc(0),
      credentials: undefined,
    });
    const waiting = ['first', 'second'].map((text) => ({
      messages: [message(text)],
      clientAddress: Buffer.alloc(0),
      credentials: undefined,
    }));
    const pendingInodes = [0n, 4n];
    const { create, connect } = phases([
      unix({ inode: 1n, state: STATE.listen, address, backlog: 3, pendingInodes, waiting }),
      unix({ inode: 4n, state: STATE.established, pendingOnInode: 1n }),
    ]);
    const closed = 'a client of listening UNIX socket 1';
    ok(
      ascends(order(create!, 'listen(116', `connect ${closed}`, 'message of 5', `close ${closed}`)),
    );
    ok(ascends(order(create!, `close ${closed}`, 'connect(117')));
    order(connect!, 'sendto(117');
  });

  it('a client that waits sends what has come, then what was still under way', () => {
    const server = Buffer.alloc(16);
    const waiting = [
      { data: Buffer.from('come'), receiveSequence: 104, client: server, server },
      { data: Buffer.from('all'), receiveSequence: 9, client: Buffer.from([2, ...server]), server },
    ];
    const client = tcp(
      { state: STATE.established, ...remote, inode: 7n },
      // Its last two bytes have not come; its first two were not acknowledged yet.
      { sendSequence: 102, sendQueue: Buffer.from('meon') },
    );
    const { connect } = phases([
      tcp({ state: STATE.listen, backlog: 5, pendingInodes: [7n, 0n], waiting }),
      client,
    ]);
    ok(
      ascends(
        order(
          connect!,
          'listen(116',
          'connect(117',
          'sendto(117, &48, 6',
          'connect a closed',
          'close a closed',
        ),
      ),
    );
  });

  it('a name whose path is gone is bound where nobody can see it', () => {
    const address = Buffer.from('/run/gone');
    const { create } = phases([unix({ inode: 1n, state: STATE.listen, address })]);
    ok(ascends(order(create!, 'fsopen', 'chroot', 'bind', 'back')));
    strictEqual(create!.filter((step) => step.startsWith('unlink')).length, 0);
  });

  it('only the grant separates a socket from going on: options come before', () => {
    const option = { level: 6, name: 1, value: Buffer.from([1, 0, 0, 0]) };
    const { connect, resume } = phases([
      tcp({ state: STATE.established, ...remote, options: [option] }, {}),
      unix({ inode: 1n, state: STATE.established, peerInode: 2n, shutdown: 2 }),
      unix({ inode: 2n, state: STATE.established, peerInode: 1n, shutdown: 1 }),
    ]);
    order(connect!, 'option 6/1', 'shut down UNIX socket 2');
    deepStrictEqual(
      resume!.filter((step) => !step.includes('TCP socket 1')),
      [],
    );
  });

  it('packets carry valid checksums', () => {
    const from = { address: there, port: 1234 };
    const to = { address: here, port: 80 };
    const segment = { sequence: 7, acknowledged: 9, flags: TCP_FLAG.fin, window: 100 };
    const packets = [tcpPacket(from, to, segment), udpPacket(from, to, Buffer.from('odd'))];
    for (const packet of packets) {
      strictEqual(sum(packet.subarray(0, 20)), 0xffff);
      const body = packet.subarray(20);
      const tail = Buffer.from([0, packet[9]!, 0, body.length]);
      strictEqual(sum(Buffer.concat([there, here, tail, body])), 0xffff);
    }
    const six = { address: Buffer.alloc(16, 1), port: 1 };
    const packet = udpPacket(six, six, Buffer.from('even'));
    const tail = Buffer.from([0, 0, 0, 12, 0, 0, 0, 17]);
    const body = packet.subarray(40);
    strictEqual(sum(Buffer.concat([six.address, six.address, tail, body])), 0xffff);
  });
});

/** The one's complement sum, which is all ones over what has a valid checksum: RFC 1071. */
function sum(bytes: Buffer): number {
  const even = bytes.length % 2 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(1)]);
  let total = 0;
  for (let i = 0; i < even.length; i += 2) total += even.readUInt16BE(i);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}
