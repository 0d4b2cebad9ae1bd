import { addressOf, call, ERRNO, type OwnedFd, sys } from '@ferry/linux';
import { macBytes, parseIpv4 } from './addresses.js';
import { linkAddress, packetSocket } from './neighbour.js';
import { deviceIndex } from './netlink.js';

/** Frames for a container that is cut off, kept as they came so that it gets them later, here or on another host. One
 *  that was lost would cost its sender a retransmission time-out: 200 ms and more, however short the cut. */

// packet(7), socket(7), include/uapi/linux/if_packet.h
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const SO_RCVBUFFORCE = 33;
const SOL_PACKET = 263;
const PACKET_ADD_MEMBERSHIP = 1;
const PACKET_VNET_HDR = 15;
const PACKET_MR_PROMISC = 1;
const ETH_P_ALL = 3;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

/** struct virtio_net_hdr, which says what checksum and segmentation a frame still needs: between devices of one machine
 *  TCP travels in pieces of up to 64 KiB without a checksum. */
const VNET_HEADER = 10;
const FRAME_MAX = VNET_HEADER + 14 + 65_536;
const SOURCE_MAC = VNET_HEADER + 6;
/** What the kernel keeps for us until it is taken; frames beyond are lost, as they would be in a full queue. */
const KEPT_BYTES_MAX = 16 * 1024 * 1024;

export interface FrameReceiver {
  readonly mac: string;
  readonly address: string;
}

/** Watches a bridge for frames to one container: its own, ARP for its address, IPv6 multicast. While the container has a
 *  port on the bridge they are copies; once the port is taken away it is here that they end. */
export class FrameCapture implements Disposable {
  readonly #socket: OwnedFd;
  readonly #mac: Buffer;
  readonly #room = Buffer.alloc(FRAME_MAX);

  /** In the network namespace of the calling thread. It ends with this process at the latest: a bridge is promiscuous
   *  for as long as somebody asks for it. */
  constructor(bridge: string, receiver: FrameReceiver) {
    this.#mac = macBytes(receiver.mac);
    this.#socket = packetSocket(0);
    try {
      this.#begin(deviceIndex(bridge), receiver);
    } catch (error) {
      this.#socket[Symbol.dispose]();
      throw error;
    }
  }

  #begin(index: number, receiver: FrameReceiver): void {
    // `kept`: V8 collects what nothing holds any more.
    const set = (level: number, name: number, value: Buffer, kept: Buffer | null = null) =>
      call('setsockopt', this.#socket.number, level, name, value, value.length, kept);
    const filter = program(this.#mac, parseIpv4(receiver.address));
    const attached = Buffer.alloc(16);
    attached.writeUInt16LE(filter.length / 8, 0);
    attached.writeBigUInt64LE(addressOf(filter), 8);
    set(SOL_SOCKET, SO_ATTACH_FILTER, attached, filter);
    set(SOL_SOCKET, SO_RCVBUFFORCE, int(KEPT_BYTES_MAX));
    set(SOL_PACKET, PACKET_VNET_HDR, int(1));
    // What a bridge floods it takes itself too while it is promiscuous: br_handle_frame_finish, net/bridge/br_input.c.
    const membership = Buffer.alloc(16);
    membership.writeInt32LE(index, 0);
    membership.writeUInt16LE(PACKET_MR_PROMISC, 4);
    set(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership);
    call('bind', this.#socket.number, linkAddress(index, ETH_P_ALL), 20);
  }

  /** The frames that came since the last call, in order. */
  take(): Buffer[] {
    const frames: Buffer[] = [];
    for (;;) {
      const { number } = this.#socket;
      const flags = MSG_DONTWAIT | MSG_TRUNC;
      const length = sys('recvfrom', number, this.#room, FRAME_MAX, flags, null, null);
      if (length === -ERRNO.EINTR) continue;
      if (length < 0) return frames;
      if (length > FRAME_MAX || length < VNET_HEADER + 14) continue;
      // The container's own word, from where it runs by now.
      if (this.#mac.compare(this.#room, SOURCE_MAC, SOURCE_MAC + 6) === 0) continue;
      frames.push(Buffer.from(this.#room.subarray(0, length)));
    }
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}

/** Sends frames that a FrameCapture took out of `device` of the calling thread's namespace: to a container, where it is
 *  the host's end of its pair. One that the kernel refuses is lost. */
export function sendFrames(device: string, frames: readonly Buffer[]): void {
  if (frames.length === 0) return;
  using socket = packetSocket(0);
  call('setsockopt', socket.number, SOL_PACKET, PACKET_VNET_HDR, int(1), 4);
  const index = deviceIndex(device);
  for (const frame of frames) {
    if (frame.length < VNET_HEADER + 14) continue;
    const to = linkAddress(index, frame.readUInt16BE(VNET_HEADER + 12));
    sys('sendto', socket.number, frame, frame.length, MSG_DONTWAIT, to, to.length);
  }
}

/** A classic BPF program, struct sock_filter[]: Documentation/networking/filter.rst. */
function program(mac: Buffer, address: number): Buffer {
  const [load32, load16, jumpIfEqual, give] = [0x20, 0x28, 0x15, 0x06];
  const ACCEPT = 11;
  const DROP = 12;
  const steps: [code: number, value: number, equal?: number, other?: number][] = [
    [load32, 0],
    [jumpIfEqual, mac.readUInt32BE(0), 2, 4],
    [load16, 4],
    [jumpIfEqual, mac.readUInt16BE(4), ACCEPT, 4],
    [load16, 12],
    [jumpIfEqual, 0x0806, 6, 8],
    [load32, 38],
    [jumpIfEqual, address, ACCEPT, DROP],
    [jumpIfEqual, 0x86dd, 9, DROP],
    [load16, 0],
    [jumpIfEqual, 0x3333, ACCEPT, DROP],
    [give, 0xffffffff],
    [give, 0],
  ];
  const bytes = Buffer.alloc(steps.length * 8);
  steps.forEach(([code, value, equal, other], i) => {
    const distance = (target: number | undefined) => (target === undefined ? 0 : target - i - 1);
    bytes.writeUInt16LE(code, i * 8);
    bytes.writeUInt8(distance(equal), i * 8 + 2);
    bytes.writeUInt8(distance(other), i * 8 + 3);
    bytes.writeUInt32LE(value >>> 0, i * 8 + 4);
  });
  return bytes;
}

function int(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}
