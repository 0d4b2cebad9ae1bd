import { call, cString, OwnedFd, sysError } from '@ferry/linux';

/** One rtnetlink request where starting `ip` would take too long: it stands in the middle of a
 *  cutover. */

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_ROUTE = 0;
const RTM_SETLINK = 19;
const NLMSG_ERROR = 2;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const IFLA_MASTER = 10;
const SIOCGIFINDEX = 0x8933;
const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;

/** Puts a device of the calling thread's network namespace into a bridge, or (`undefined`) takes it
 *  out of whatever it is in. Synchronous: done when it returns. rtnetlink(7).
 *  @throws SysError ENODEV when one of them does not exist */
export function setLinkMaster(device: string, bridge: string | undefined): void {
  const request = Buffer.alloc(16 + 16 + 8);
  request.writeUInt32LE(request.length, 0);
  request.writeUInt16LE(RTM_SETLINK, 4);
  request.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK, 6);
  request.writeUInt32LE(1, 8);
  request.writeInt32LE(deviceIndex(device), 20);
  request.writeUInt16LE(8, 32);
  request.writeUInt16LE(IFLA_MASTER, 34);
  request.writeUInt32LE(bridge === undefined ? 0 : deviceIndex(bridge), 36);
  using socket = new OwnedFd(call('socket', AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE));
  call('sendto', socket.number, request, request.length, 0, null, 0);
  const answer = Buffer.alloc(4096);
  const length = call('recvfrom', socket.number, answer, answer.length, 0, null, null);
  const error = length >= 20 && answer.readUInt16LE(4) === NLMSG_ERROR ? answer.readInt32LE(16) : 0;
  if (error < 0) throw sysError('RTM_SETLINK', -error, `${device} (master ${bridge ?? 'none'})`);
}

/** The number of a device of the calling thread's namespace; netdevice(7).
 *  @throws SysError ENODEV */
export function deviceIndex(device: string): number {
  using socket = new OwnedFd(call('socket', AF_INET, SOCK_DGRAM_CLOEXEC, 0));
  const ifreq = Buffer.alloc(40);
  cString(device).copy(ifreq, 0, 0, 16);
  call('ioctl', socket.number, SIOCGIFINDEX, ifreq);
  return ifreq.readInt32LE(16);
}
