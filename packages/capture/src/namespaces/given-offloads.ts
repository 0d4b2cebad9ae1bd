import { addressOf, call, OwnedFd, sys, tryReadProc } from '@ferry/linux';
import type { Refusal } from './network-links.js';

const SIOCETHTOOL = 0x8946;
const [AF_INET, SOCK_DGRAM] = [2, 2];
const IFREQ = { length: 40, name: 16 } as const;
/** What a veth device has switched on as it is made (drivers/net/veth.c: VETH_FEATURES): ETHTOOL_G*, and what ethtool(8)
 *  calls it. */
const OFFLOADS = [
  [0x14, 'rx'],
  [0x16, 'tx'],
  [0x18, 'sg'],
  [0x1e, 'tso'],
  [0x23, 'gso'],
] as const;

/** What of the given device's work was switched off, and hardware addresses that somebody let it listen to besides. Runs in
 *  the namespace; changes nothing. */
export function givenOffloadChanges(device: string): Refusal[] {
  return [...switchedOff(device), ...listenedTo(device)];
}

/** At a device that the host gives. */
export function changed(object: string, remedy: string): Refusal {
  return {
    code: 'network.changed',
    object,
    reason: 'that was set inside the container, whose network its host makes anew',
    remedy,
  };
}

/** Of all at once: what is done with packets depends on what is done before, so that one switches others off. */
function switchedOff(device: string): Refusal[] {
  using socket = new OwnedFd(call('socket', AF_INET, SOCK_DGRAM, 0));
  const off = OFFLOADS.flatMap(([command, what]) => {
    const value = Buffer.alloc(8);
    value.writeUInt32LE(command, 0);
    const request = Buffer.alloc(IFREQ.length);
    request.write(device, 0, IFREQ.name - 1, 'latin1');
    request.writeBigUInt64LE(addressOf(value), IFREQ.name);
    const isTold = sys('ioctl', socket.number, SIOCETHTOOL, request) >= 0;
    return isTold && value.readUInt32LE(4) === 0 ? [what] : [];
  });
  if (off.length === 0) return [];
  const words = off.map((what) => `${what} on`).join(' ');
  return [
    changed(
      `network device ${device} with ${off.join(', ')} switched off`,
      `take it back: ethtool -K ${device} ${words}`,
    ),
  ];
}

/** Lines of net/core/net-procfs.c (dev_mc_seq_show): index, name, users, whether by ip-maddress(8), address. */
function listenedTo(device: string): Refusal[] {
  const lines = (tryReadProc('/proc/thread-self/net/dev_mcast') ?? '').trim().split('\n');
  return lines.flatMap((line) => {
    const [, name, , isSet, digits = ''] = line.trim().split(/\s+/);
    if (name !== device || isSet !== '1') return [];
    const text = digits.match(/../g)?.join(':') ?? '';
    return [
      changed(
        `network device ${device} that listens to ${text}`,
        `take it back: ip maddr del ${text} dev ${device}`,
      ),
    ];
  });
}
