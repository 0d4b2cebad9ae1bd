import {
  call,
  NETLINK_HEADER,
  netlinkAttribute,
  netlinkAttributes,
  netlinkDump,
  netlinkMessage,
  OwnedFd,
} from '@ferry/linux';
import { deviceIndex } from './netlink.js';

/** The table of neighbours of a network namespace (ARP and neighbour discovery): rtnetlink(7), neighbour messages. */

const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_ROUTE = 0;
const RTM_NEWNEIGH = 28;
const RTM_GETNEIGH = 30;
const NLM_F = { request: 1, excl: 0x200, create: 0x400 } as const;
const NDA = { dst: 1, lladdr: 2 } as const;
// include/uapi/linux/neighbour.h
const NUD = { reachable: 0x02, stale: 0x04, delay: 0x08, probe: 0x10, permanent: 0x80 } as const;
const KNOWN = NUD.reachable | NUD.stale | NUD.delay | NUD.probe | NUD.permanent;
/** struct ndmsg: family, padding, interface, state, flags, type. */
const NDMSG_BYTES = 12;
const MAC_BYTES = 6;
/** More than the kernel keeps by default (net.ipv4.neigh.default.gc_thresh3). */
const NEIGHBOURS_MAX = 1024;

/** Where an address was found. */
export interface Neighbour {
  /** 4 or 16 bytes. */
  readonly address: Buffer;
  readonly mac: Buffer;
  /** Put there by an administrator. */
  readonly permanent: boolean;
}

/** Those that the calling thread's namespace knows on one of its devices. Synchronous. */
export function neighboursHere(device: string): Neighbour[] {
  const index = deviceIndex(device);
  const request = { type: RTM_GETNEIGH, payload: Buffer.alloc(NDMSG_BYTES) };
  const found: Neighbour[] = [];
  for (const message of netlinkDump(NETLINK_ROUTE, request)) {
    const state = message.readUInt16LE(NETLINK_HEADER + 8);
    if (message.readInt32LE(NETLINK_HEADER + 4) !== index || (state & KNOWN) === 0) continue;
    const attributes = new Map(netlinkAttributes(message, NETLINK_HEADER + NDMSG_BYTES));
    const address = attributes.get(NDA.dst);
    const mac = attributes.get(NDA.lladdr);
    const neighbour = { address, mac, permanent: (state & NUD.permanent) !== 0 };
    if (isSane(neighbour)) found.push(neighbour);
  }
  return found.slice(0, NEIGHBOURS_MAX);
}

/** Makes them known on a device of the calling thread's namespace, as what was true a while ago: the kernel sends to them at
 *  once, and looks then whether they still are there (NUD_STALE). What it knows already it keeps. Synchronous.
 *  @param neighbours  may come from a peer: what makes no sense is passed over */
export function addNeighboursHere(device: string, neighbours: readonly Neighbour[]): void {
  const sane = neighbours.filter(isSane).slice(0, NEIGHBOURS_MAX);
  if (sane.length === 0) return;
  const index = deviceIndex(device);
  const flags = NLM_F.request | NLM_F.create | NLM_F.excl;
  const messages = sane.map(({ address, mac, permanent }) => {
    const head = Buffer.alloc(NDMSG_BYTES);
    head.writeUInt8(address.length === 4 ? AF_INET : AF_INET6, 0);
    head.writeInt32LE(index, 4);
    head.writeUInt16LE(permanent ? NUD.permanent : NUD.stale, 8);
    const parts = [netlinkAttribute(NDA.dst, address), netlinkAttribute(NDA.lladdr, mac)];
    return netlinkMessage(RTM_NEWNEIGH, flags, Buffer.concat([head, ...parts]));
  });
  using socket = new OwnedFd(call('socket', AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE));
  const all = Buffer.concat(messages);
  // Done when it returns (net/netlink/af_netlink.c: netlink_rcv_skb); what fails would be told to nobody who could help.
  call('sendto', socket.number, all, all.length, 0, null, 0);
}

/** A unicast address with the hardware address of one device. */
function isSane(neighbour: {
  address: Buffer | undefined;
  mac: Buffer | undefined;
}): neighbour is Neighbour {
  const { address, mac } = neighbour;
  if (address === undefined || ![4, 16].includes(address.length)) return false;
  const first = address[0]!;
  const isMulticast = address.length === 4 ? first >= 224 : first === 0xff;
  return (
    !isMulticast && mac?.length === MAC_BYTES && (mac[0]! & 1) === 0 && !mac.every((b) => b === 0)
  );
}
