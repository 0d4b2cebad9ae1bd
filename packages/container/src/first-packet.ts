import { addressOf, call, MSG, type OwnedFd, peekMessage, SOL, sys } from '@ferry/linux';
import { macBytes } from './addresses.js';
import { linkAddress, packetSocket } from './neighbour.js';
import { deviceIndex } from './netlink.js';

// packet(7), socket(7)
const SO_ATTACH_FILTER = 26;
const SO_TIMESTAMPNS = 35;
const ETH_P_ALL = 3;
/** Of a frame no more than its head is looked at. */
const HEAD_BYTES = 64;

/** Watches the host's end of a container's pair for the first IP packet that comes out of it; what tells neighbours where
 *  it is (ARP, ICMPv6) is none. Only what the socket's queue has room for is kept, the first among it. */
export class FirstPacketWatch implements Disposable {
  readonly #socket: OwnedFd;
  #startedAt = 0;

  /** In the network namespace of the calling thread, with the container not running yet. */
  constructor(device: string, mac: string) {
    this.#socket = packetSocket(0);
    try {
      const filter = program(macBytes(mac));
      const attached = Buffer.alloc(16);
      attached.writeUInt16LE(filter.length / 8, 0);
      attached.writeBigUInt64LE(addressOf(filter), 8);
      const { number } = this.#socket;
      // The filter too: V8 collects what nothing holds any more.
      const level = SOL.socket;
      call('setsockopt', number, level, SO_ATTACH_FILTER, attached, attached.length, filter);
      const on = Buffer.from([1, 0, 0, 0]);
      call('setsockopt', number, SOL.socket, SO_TIMESTAMPNS, on, on.length);
      call('bind', number, linkAddress(deviceIndex(device), ETH_P_ALL), 20);
    } catch (error) {
      this.#socket[Symbol.dispose]();
      throw error;
    }
  }

  /** Right before the container runs: forgets what came so far. */
  start(): void {
    const room = Buffer.alloc(HEAD_BYTES);
    while (sys('recvfrom', this.#socket.number, room, room.length, MSG.dontWait, null, null) >= 0);
    this.#startedAt = realtimeMs();
  }

  /** How long after the start it came, in ms; undefined as long as it did not. */
  get afterMs(): number | undefined {
    const message = peekMessage(this.#socket.number, HEAD_BYTES, 0);
    const stamp = message?.control.find(
      ({ level, type }) => level === SOL.socket && type === SO_TIMESTAMPNS,
    )?.data;
    if (stamp === undefined) return undefined;
    return Math.max(0, timeMs(stamp) - this.#startedAt);
  }

  /** Closing a packet socket waits for a grace period of RCU. */
  [Symbol.dispose](): void {
    this.#socket.closeElsewhere();
  }
}

/** The clock of the kernel's time stamps. */
function realtimeMs(): number {
  const time = Buffer.alloc(16);
  call('clock_gettime', 0, time);
  return timeMs(time);
}

/** struct timespec. */
function timeMs(time: Buffer): number {
  return Number(time.readBigInt64LE(0)) * 1000 + Number(time.readBigInt64LE(8)) / 1e6;
}

/** A classic BPF program, struct sock_filter[]: from `mac`, IPv4, or IPv6 other than ICMPv6. */
function program(mac: Buffer): Buffer {
  const [load32, load16, load8, jumpIfEqual, give] = [0x20, 0x28, 0x30, 0x15, 0x06];
  const steps: [code: number, value: number, skipIfEqual?: number, skipIfNot?: number][] = [
    [load32, 6],
    [jumpIfEqual, mac.readUInt32BE(0), 0, 8],
    [load16, 10],
    [jumpIfEqual, mac.readUInt16BE(4), 0, 6],
    [load16, 12],
    [jumpIfEqual, 0x0800, 3, 0],
    [jumpIfEqual, 0x86dd, 0, 3],
    [load8, 20],
    [jumpIfEqual, 58, 1, 0],
    [give, HEAD_BYTES],
    [give, 0],
  ];
  const bytes = Buffer.alloc(steps.length * 8);
  steps.forEach(([code, value, skipIfEqual = 0, skipIfNot = 0], i) => {
    bytes.writeUInt16LE(code, i * 8);
    bytes.writeUInt8(skipIfEqual, i * 8 + 2);
    bytes.writeUInt8(skipIfNot, i * 8 + 3);
    bytes.writeUInt32LE(value >>> 0, i * 8 + 4);
  });
  return bytes;
}
