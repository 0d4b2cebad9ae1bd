import { deepStrictEqual, strictEqual } from 'node:assert';
import { AF, call, OwnedFd, SOCK, SOL, setSocketInt } from '@ferry/linux';
import { type SocketFacts, SocketProbe } from '../src/files/socket-probe.js';

const KIND = { domain: AF.inet, type: SOCK.stream, protocol: 6 };
const SO_PRIORITY = 12;
const TCP_NODELAY = 1;

/** Its Buffers are good until the next look; struct tcp_info says how long ago something was. */
function copied(facts: SocketFacts): object {
  return { ...facts, local: Buffer.from(facts.local), tcpInfo: facts.tcpInfo?.length };
}

describe('looks at many sockets', () => {
  it('find the same when a thread takes them ahead, in any order, and of one that it was not told of', () => {
    const releases: (() => void)[] = [];
    const borrow = () => {
      using fresh = new OwnedFd(call('socket', KIND.domain, KIND.type, KIND.protocol));
      return SocketProbe.borrow(fresh.number, KIND, (action) => releases.push(action));
    };
    const sockets = Array.from({ length: 40 }, (_, i) => {
      const socket = new OwnedFd(call('socket', KIND.domain, KIND.type, KIND.protocol));
      setSocketInt(socket.number, SOL.socket, SO_PRIORITY, i % 6);
      setSocketInt(socket.number, SOL.tcp, TCP_NODELAY, i % 2);
      return socket;
    });
    try {
      const [usual, ahead] = [borrow(), borrow()];
      const fds = sockets.map(({ number }) => number);
      const wanted = fds.map((fd) => copied(usual.read(fd)));
      strictEqual((wanted[11] as SocketFacts).options.length, 2);
      for (let times = 0; times < 20; times++) {
        ahead.readAhead(fds.slice(0, -1));
        const order = times % 2 === 0 ? [...fds.keys()] : [...fds.keys()].reverse();
        for (const i of order) deepStrictEqual(copied(ahead.read(fds[i]!)), wanted[i]);
        deepStrictEqual(copied(ahead.read(fds[5]!)), wanted[5], 'a second look');
        for (const release of releases.splice(1)) release();
        strictEqual(borrow(), ahead, 'it is used again');
      }
    } finally {
      for (const release of releases) release();
      for (const socket of sockets) socket[Symbol.dispose]();
    }
  });
});
