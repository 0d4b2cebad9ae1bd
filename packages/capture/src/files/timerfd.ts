import { invariant } from '@ferry/core';
import { call, readProc } from '@ferry/linux';
import type { Descriptor, FileCapture } from './context.js';
import { fieldOf } from './read-descriptors.js';

const NS = 1_000_000_000n;
const TRIES = 5;

/** timerfd_create(2), from fdinfo, which tells what is left also of timers set to an absolute time. */
export const timerfdCapture: FileCapture = {
  matches: (descriptor) => descriptor.link === 'anon_inode:[timerfd]',
  capture(descriptor, ctx) {
    let { info } = descriptor;
    // A short one may expire again between two looks.
    for (let i = 0; i < TRIES && !ctx.scanning && isOverdue(info); i++) info = caughtUp(descriptor);
    return {
      $case: 'timerfd',
      value: {
        clock: fieldOf(info, 'clockid: ', 10),
        setFlags: fieldOf(info, 'settime flags: ', 8),
        ticks: BigInt(fieldOf(info, 'ticks: ', 10)),
        // Zero would disarm it.
        remainingNs: isOverdue(info) ? 1n : timeOf(info, 'it_value'),
        intervalNs: timeOf(info, 'it_interval'),
      },
    };
  },
};

/** A periodic timer that expired stands still until somebody reads it: what is left is zero, and ticks are missing. */
function isOverdue(info: string): boolean {
  return timeOf(info, 'it_interval') > 0n && timeOf(info, 'it_value') === 0n;
}

/** timerfd_gettime(2) brings ticks and time left up to date, as the next read would have. */
function caughtUp(descriptor: Descriptor): string {
  call('timerfd_gettime', descriptor.dup().number, Buffer.alloc(32));
  return readProc(`/proc/${descriptor.process.hostPid}/fdinfo/${descriptor.fd}`);
}

function timeOf(info: string, label: string): bigint {
  const match = new RegExp(`^${label}: \\((\\d+), (\\d+)\\)$`, 'm').exec(info);
  invariant(match !== null, `fdinfo of a timerfd has no ${label}: ${info}`);
  return BigInt(match[1]!) * NS + BigInt(match[2]!);
}
