import { bpfMapCapture } from './bpf-map.js';
import type { FileCapture } from './context.js';
import { deviceCapture } from './device.js';
import { directoryCapture } from './directory.js';
import { epollCapture } from './epoll.js';
import { eventfdCapture } from './eventfd.js';
import { inetSocketCapture } from './inet-socket.js';
import { memfdCapture } from './memfd.js';
import { namespaceCapture } from './namespace.js';
import { netlinkCapture } from './netlink.js';
import { fanotifyCapture, inotifyCapture } from './notify.js';
import { otherSocketCapture } from './other-socket.js';
import { packetCapture } from './packet.js';
import { pidfdCapture } from './pidfd.js';
import { fifoCapture, pipeCapture } from './pipe.js';
import { refusedCapture } from './refused.js';
import { regularCapture } from './regular.js';
import { signalfdCapture } from './signalfd.js';
import { terminalCapture } from './terminal.js';
import { timerfdCapture } from './timerfd.js';
import { tunCapture } from './tun.js';
import { unixSocketCapture } from './unix-socket.js';

/** Every kind of open file, asked in this order; the first that matches captures. What none matches is a blocker. */
export const fileCaptures: readonly FileCapture[] = [
  pipeCapture,
  unixSocketCapture,
  inetSocketCapture,
  netlinkCapture,
  packetCapture,
  otherSocketCapture,
  memfdCapture,
  bpfMapCapture,
  refusedCapture,
  regularCapture,
  directoryCapture,
  terminalCapture,
  tunCapture,
  deviceCapture,
  fifoCapture,
  eventfdCapture,
  epollCapture,
  timerfdCapture,
  signalfdCapture,
  namespaceCapture,
  pidfdCapture,
  inotifyCapture,
  fanotifyCapture,
];
