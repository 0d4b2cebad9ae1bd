import type { InetSocket, TcpState } from '@ferry/image';
import type { FileContext } from './context.js';

interface Captured {
  readonly socket: InetSocket;
  /** Looks at it again. */
  readonly take: () => void;
}

/** Ends of one connection are captured one after the other, and the kernel's timers go on meanwhile: bytes may cross
 *  between the two looks. When the second look shows that they did, the first end is looked at again, until the two
 *  agree: each has received no more than the other has sent, and had no more acknowledged than the other received. */
export function checkPair(socket: InetSocket, take: () => unknown, ctx: FileContext): void {
  const seen = ctx.shared('tcpEnds', () => new Map<string, Captured>());
  const local = end(socket.localAddress, socket.localPort);
  const remote = end(socket.remoteAddress, socket.remotePort);
  const other = seen.get(`${remote}>${local}`);
  if (other === undefined) {
    seen.set(`${local}>${remote}`, { socket, take });
    return;
  }
  for (let tries = 0; tries < 8 && !agree(socket.tcp!, other.socket.tcp!); tries++) {
    other.take();
    if (!agree(socket.tcp!, other.socket.tcp!)) take();
  }
}

/** IPv4 addresses are the same however they are written. */
function end(address: Buffer, port: number): string {
  const bytes = address.toString('latin1');
  return `${bytes.startsWith(MAPPED) ? bytes.slice(MAPPED.length) : bytes}:${port}`;
}

const MAPPED = '\0\0\0\0\0\0\0\0\0\0\xff\xff';

function agree(a: TcpState, b: TcpState): boolean {
  return flows(a, b) && flows(b, a);
}

function flows(from: TcpState, to: TcpState): boolean {
  const sent = from.sendQueue.length - from.unsent;
  const received = (to.receiveSequence - from.sendSequence) | 0;
  return received >= 0 && received <= sent;
}
