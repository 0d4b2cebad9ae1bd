import type { TimerFd } from '@ferry/image';
import { O_NONBLOCK } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';

const NS = 1_000_000_000n;
const CLOCK_REALTIME = 0;
const CLOCK_REALTIME_ALARM = 8;
const TFD_TIMER_ABSTIME = 1;
const TFD_IOC_SET_TICKS = 0x40085400;

/** timerfd_create(2), armed as the tree resumes, with the time that was left at the freeze; but a timer set to a time
 *  of day keeps it. Setting clears what has expired, so the ticks are put back afterwards. */
export const timerfdEmitter: FileEmitter = {
  create(b, file, ctx) {
    if (file.kind?.$case !== 'timerfd') return;
    const slot = b.slotFor('file');
    const flags = file.flags & O_NONBLOCK;
    b.sys('timerfd_create', [file.kind.value.clock, flags], `timerfd ${file.id}`, { into: slot });
    b.moveFd(slot, ctx.fdOf(file.id), `timerfd ${file.id}`);
  },
  resume(b, file, ctx) {
    if (file.kind?.$case !== 'timerfd') return;
    const { value } = file.kind;
    const fd = ctx.fdOf(file.id);
    const { flags, dueNs } = dueOf(value, ctx);
    if (dueNs > 0n || value.intervalNs > 0n) {
      const { intervalNs } = value;
      const spec = b.words(intervalNs / NS, intervalNs % NS, dueNs / NS, dueNs % NS);
      b.sys('timerfd_settime', [fd, flags, spec, 0], `timerfd ${file.id}: arm`);
    }
    if (value.ticks > 0n) {
      const ticks = b.words(value.ticks);
      b.sys('ioctl', [fd, TFD_IOC_SET_TICKS, ticks], `timerfd ${file.id}: ${value.ticks} ticks`);
    }
  },
};

/** Absolute times of CLOCK_REALTIME stay what they were, and so does TFD_TIMER_CANCEL_ON_SET. Clocks that count from
 *  boot are others on another host: what was left counts. */
function dueOf(value: TimerFd, ctx: EmitContext): { flags: number; dueNs: bigint } {
  const { clock, setFlags, remainingNs } = value;
  const isOfDay = clock === CLOCK_REALTIME || clock === CLOCK_REALTIME_ALARM;
  if (!isOfDay || (setFlags & TFD_TIMER_ABSTIME) === 0 || remainingNs === 0n) {
    return { flags: 0, dueNs: remainingNs };
  }
  return { flags: setFlags, dueNs: ctx.image.realtimeNs + remainingNs };
}
