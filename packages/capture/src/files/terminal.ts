import type { TerminalPair } from '@ferry/image';
import { deviceNumbers, externalKind, isPathOnly, refuse, standardFdOf, typeOf } from './common.js';
import type { Descriptor, FileCapture, FileContext } from './context.js';
import { capturePair } from './terminal-pair.js';

const DELETED = ' (deleted)';
const PTMX = { major: 5, minor: 2 };
const CONTROLLING = { major: 5, minor: 0 };

/** Pseudo terminals (136 to 143, masters 5:2), /dev/tty and /dev/console (5:0, 5:1), consoles (4). Those whose other side
 *  is outside the tree must be its standard input, output or error. */
export const terminalCapture: FileCapture = {
  matches(descriptor) {
    if (typeOf(descriptor) !== 'character' || isPathOnly(descriptor)) return false;
    const { major } = deviceNumbers(descriptor.stat.rdev);
    return major === PTMX.major || major === 4 || isSlave(descriptor);
  },
  capture(descriptor, ctx) {
    const { major, minor } = deviceNumbers(descriptor.stat.rdev);
    if (major === PTMX.major && minor === PTMX.minor) return captureMaster(descriptor, ctx);
    if (isSlave(descriptor)) return captureSlave(descriptor, ctx);
    const standardFd = standardFdOf(
      ctx.idsOfInode(descriptor.stat.device, descriptor.stat.inode),
      ctx,
    );
    if (standardFd !== undefined) return externalKind(descriptor, standardFd, ctx);
    const isControlling = major === CONTROLLING.major && minor === CONTROLLING.minor;
    const session = isControlling ? ctx.pids.outer(descriptor.process.hostPid, 'NSsid') : 0;
    const side = isControlling ? 'controlling' : 'console';
    const { link: path } = descriptor;
    return { $case: 'terminal', value: { side, path, index: 0, pair: undefined, session } };
  },
};

export function isSlave(descriptor: Pick<Descriptor, 'stat'>): boolean {
  const { major } = deviceNumbers(descriptor.stat.rdev);
  return typeOf(descriptor) === 'character' && major >= 136 && major <= 143;
}

/** N of /dev/pts/N. */
export function slaveIndex({ stat }: Pick<Descriptor, 'stat'>): number {
  const { major, minor } = deviceNumbers(stat.rdev);
  return (major - 136) * 256 + minor;
}

function masterIndex({ info }: Descriptor): number | undefined {
  const index = /^tty-index:\t(\d+)$/m.exec(info)?.[1];
  return index === undefined ? undefined : Number(index);
}

/** The tree's master of a pair, by index. */
export function mastersOf(ctx: FileContext): Map<number, Descriptor> {
  return ctx.shared('terminalMasters', () => {
    const found = new Map<number, Descriptor>();
    for (const { descriptor } of ctx.descriptions) {
      const index = typeOf(descriptor) === 'character' ? masterIndex(descriptor) : undefined;
      if (index !== undefined) found.set(index, descriptor);
    }
    return found;
  });
}

function slavesOf(index: number, ctx: FileContext): Descriptor[] {
  return ctx.descriptions
    .map(({ descriptor }) => descriptor)
    .filter((each) => isSlave(each) && slaveIndex(each) === index && !isLost(each));
}

function isLost({ link }: Descriptor): boolean {
  return link.endsWith(DELETED);
}

function captureMaster(
  descriptor: Descriptor,
  ctx: FileContext,
): ReturnType<FileCapture['capture']> {
  const index = masterIndex(descriptor) ?? 0;
  const { link: path } = descriptor;
  const pair = firstTime(`${index}`, ctx, () =>
    capturePair({ master: descriptor, slaves: slavesOf(index, ctx) }),
  );
  return { $case: 'terminal', value: { side: 'master', path, index, pair, session: 0 } };
}

function captureSlave(
  descriptor: Descriptor,
  ctx: FileContext,
): ReturnType<FileCapture['capture']> {
  const index = slaveIndex(descriptor);
  const path = descriptor.link.replace(DELETED, '');
  const master = isLost(descriptor) ? undefined : mastersOf(ctx).get(index);
  if (master === undefined && !isLost(descriptor)) return outside(descriptor, ctx);
  const { inode } = descriptor.stat;
  const key = master === undefined ? `lost ${index} ${inode}` : `${index}`;
  const pair = firstTime(key, ctx, () =>
    capturePair({ master, slaves: master === undefined ? [descriptor] : slavesOf(index, ctx) }),
  );
  return { $case: 'terminal', value: { side: 'slave', path, index, pair, session: 0 } };
}

/** The pair stands with the description that is captured first. */
function firstTime(
  key: string,
  ctx: FileContext,
  capture: () => TerminalPair,
): TerminalPair | undefined {
  if (ctx.scanning) return undefined;
  const seen = ctx.shared('terminalPairs', () => new Set<string>());
  if (seen.has(key)) return undefined;
  seen.add(key);
  return capture();
}

function outside(descriptor: Descriptor, ctx: FileContext): ReturnType<FileCapture['capture']> {
  const { device, inode } = descriptor.stat;
  const standardFd = standardFdOf(ctx.idsOfInode(device, inode), ctx);
  if (standardFd !== undefined) return externalKind(descriptor, standardFd, ctx);
  return refuse(descriptor, ctx, {
    code: 'file.terminal',
    reason:
      'the other side of this terminal belongs to a process outside the tree, and it is not the ' +
      "tree's standard input, output or error",
    remedy: 'run the program without a terminal (setsid, terminal: false, docker run without -t)',
  });
}
