import { OwnedFd, sys, tryReadProc } from '@ferry/linux';
import { statFd } from './common.js';
import type { Descriptor, FileContext, FileOwnerProcess } from './context.js';
import { innerGroup } from './owner.js';
import { isSlave, mastersOf, slaveIndex } from './terminal.js';

const TIOCGPTPEER = 0x5441;
/** O_RDWR, O_NOCTTY, O_CLOEXEC */
const PEER_FLAGS = 0o2000402;
const O_RDWR = 2;

/** A process's controlling terminal, as the image has it. */
export interface SessionTerminal {
  readonly hasTerminal: boolean;
  readonly terminalFileId: number;
  readonly foregroundGroup: number;
}

export const NO_TERMINAL: SessionTerminal = {
  hasTerminal: false,
  terminalFileId: 0,
  foregroundGroup: 0,
};

/** Fields of /proc/PID/stat behind the name: session, tty_nr, tpgid are the fourth to sixth. */
const STAT = /^\d+ \(.*\) \S+ \S+ \S+ (\d+) (-?\d+) (-?\d+) /s;

/** @param adopt  takes up a description that no process has */
export function sessionTerminal(
  process: FileOwnerProcess,
  ctx: FileContext,
  adopt: (descriptor: Descriptor) => number,
): SessionTerminal {
  const stat = STAT.exec(tryReadProc(`/proc/${process.hostPid}/stat`) ?? '');
  const [session = 0, device = 0, foreground = 0] = stat?.slice(1).map(Number) ?? [];
  if (device === 0) return NO_TERMINAL;
  const { major, minor } = numbersOf(device);
  const master = mastersOf(ctx).get((major - 136) * 256 + minor);
  const isOurs = major >= 136 && major <= 143 && master !== undefined;
  if (session !== process.hostPid || !isOurs || ctx.scanning) {
    return { ...NO_TERMINAL, hasTerminal: true };
  }
  return {
    hasTerminal: true,
    terminalFileId: slaveOf(master, (major - 136) * 256 + minor, { process, ctx, adopt }),
    foregroundGroup: foreground > 0 ? (innerGroup(foreground, ctx) ?? 0) : 0,
  };
}

/** new_encode_dev(), include/linux/kdev_t.h */
function numbersOf(device: number): { major: number; minor: number } {
  return { major: (device >> 8) & 0xfff, minor: (device & 0xff) | ((device >> 12) & 0xfff00) };
}

/** Any description of the slave; one is made when the tree has none. */
function slaveOf(
  master: Descriptor,
  index: number,
  options: {
    process: FileOwnerProcess;
    ctx: FileContext;
    adopt: (descriptor: Descriptor) => number;
  },
): number {
  const { process, ctx, adopt } = options;
  const known = ctx.descriptions.find(
    ({ descriptor }) =>
      isSlave(descriptor) &&
      slaveIndex(descriptor) === index &&
      !descriptor.link.endsWith(' (deleted)'),
  );
  if (known !== undefined) return known.id;
  const peer = sys('ioctl', master.dup().number, TIOCGPTPEER, PEER_FLAGS);
  if (peer < 0) return 0;
  const fd = new OwnedFd(peer);
  ctx.onRelease(() => fd[Symbol.dispose]());
  return adopt({
    process,
    fd: -1,
    link: `/dev/pts/${index}`,
    stat: statFd(fd),
    info: '',
    position: 0n,
    flags: O_RDWR,
    closeOnExec: false,
    dup: () => fd,
  });
}
