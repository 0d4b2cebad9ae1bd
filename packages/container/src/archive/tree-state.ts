import { type BigIntStats, fstatSync, lstatSync } from 'node:fs';
import { type OwnedFd, sys } from '@ferry/linux';
import {
  memberPath,
  namesIn,
  openFolder,
  openSubfolder,
  Pacer,
  pathBytes,
  unlessGone,
} from './raw-fs.js';

/** What one name of a tree looked like, and what tells whether it was changed since. */
interface TreeEntry {
  readonly kind: 'folder' | 'file' | 'other' | 'whiteout';
  readonly inode: bigint;
  /** A folder that hides what lower layers have of it: Documentation/filesystems/overlayfs.rst */
  readonly opaque: boolean;
  /** Moves with every change of content or metadata. */
  readonly mark: string;
}

/** Paths (latin1, relative) in the order in which they are packed. */
export type TreeState = ReadonlyMap<string, TreeEntry>;

/** Before Linux 6.13 times moved in steps of a timer tick: what was changed this shortly before a look began may be changed
 *  again without a trace. So may what was changed since, through a mapping that was made since. */
const RECENT_NS = 20_000_000n;

/** Looks at every file below `root` (a trusted path, or a folder held open), on its file system alone, and into none. Names
 *  that vanish are left out, and files that something else is mounted on.
 *  @param onFile  told where each regular file is while it is looked at */
export async function treeState(
  root: string | OwnedFd,
  onFile: (where: Buffer, about: BigIntStats) => void = () => {},
): Promise<TreeState> {
  if (typeof root !== 'string') return await lookAt(root, onFile);
  using folder = openFolder(root);
  return await lookAt(folder, onFile);
}

async function lookAt(
  folder: OwnedFd,
  onFile: (where: Buffer, about: BigIntStats) => void,
): Promise<TreeState> {
  const state = new Map<string, TreeEntry>();
  const pacer = new Pacer();
  const began = BigInt(Date.now()) * 1_000_000n;
  const device = fstatSync(folder.number, { bigint: true }).dev;
  const note = (inside: OwnedFd, name: string, path: string): TreeEntry['kind'] | undefined => {
    const where = memberPath(inside, name);
    const about = lstatSync(where, { bigint: true, throwIfNoEntry: false });
    if (about === undefined) return undefined;
    const isOwn = about.dev === device;
    const kind = kindOf(about);
    const isFolder = kind === 'folder';
    if (!isOwn && !isFolder) return 'other';
    const recent = began - about.ctimeNs < RECENT_NS;
    const mark = `${about.mode} ${about.size} ${about.mtimeNs} ${about.ctimeNs}`;
    state.set(path, {
      ...{ kind, inode: about.ino, opaque: isFolder && isOpaque(where) },
      mark: recent ? `${mark} ${marks++}` : mark,
    });
    if (kind === 'file') onFile(where, about);
    return isFolder && isOwn ? 'folder' : 'other';
  };
  const visit = async (inside: OwnedFd, prefix: string): Promise<void> => {
    for (const name of namesIn(inside)) {
      await pacer.step();
      const path = prefix === '' ? name : `${prefix}/${name}`;
      if (note(inside, name, path) !== 'folder') continue;
      const inner = unlessGone(() => openSubfolder(inside, name));
      if (inner === undefined) continue;
      using opened = inner;
      await visit(opened, path);
    }
  };
  note(folder, '.', '');
  await visit(folder, '');
  return state;
}

let marks = 0;

function kindOf(about: BigIntStats): TreeEntry['kind'] {
  if (about.isDirectory()) return 'folder';
  if (about.isCharacterDevice() && about.rdev === 0n) return 'whiteout';
  return about.isFile() ? 'file' : 'other';
}

/** What a name must still be for what is known of it to hold: inode numbers are given to others as soon as they are free. */
export function identityOf(about: BigIntStats): string {
  return identity({ kind: kindOf(about), inode: about.ino });
}

export function identity({ kind, inode }: Pick<TreeEntry, 'kind' | 'inode'>): string {
  return `${kind} ${inode}`;
}

function isOpaque(where: Buffer): boolean {
  const value = Buffer.alloc(1);
  const path = Buffer.concat([where, Buffer.of(0)]);
  const name = pathBytes('trusted.overlay.opaque');
  return sys('lgetxattr', path, name, value, value.length) === 1 && value.toString() === 'y';
}

/** How a tree came from one state to another. */
export interface TreeChanges {
  /** To be removed first, with all below. */
  readonly removed: readonly string[];
  /** To be made, or brought to their new state: folders and files in place, others anew. Includes the folders above. With
   *  what they were when they were looked at (`identityOf`). */
  readonly made: ReadonlyMap<string, string>;
  /** Folders of which all is to be made. */
  readonly whole: ReadonlySet<string>;
  /** By inode, the path of each changed file whose copy stays the file that it is: written in place it is still the one that
   *  a process has mapped. Its further names are linked to it. */
  readonly kept: ReadonlyMap<bigint, string>;
  /** Those of `made` of which only the content may have changed, and perhaps nothing has. */
  readonly doubted: ReadonlySet<string>;
  readonly plain: boolean;
}

interface Comparison {
  /** It is not for somebody who sees it through an overlay. There, a name that is removed hides what lower layers have, and
   *  a folder that is made where one was removed hides all of theirs. */
  readonly plain?: boolean;
  /** Whether a file may have been written without a trace, by its inode. */
  readonly doubtful?: (inode: bigint) => boolean;
}

/** Pure. */
export function treeChanges(
  before: TreeState,
  now: TreeState,
  { plain = false, doubtful = () => false }: Comparison = {},
): TreeChanges {
  const removed = [...before.keys()].filter((path) => !now.has(path));
  const made = new Map<string, string>();
  const whole = new Set<string>();
  const doubted = new Set<string>();
  const homes = homesOf(before, now, plain);
  const kept = new Map<bigint, string>();
  const make = (path: string): void => {
    for (let at = path; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/')))) {
      if (made.has(at)) return;
      const entry = now.get(at);
      made.set(at, entry === undefined ? '' : identity(entry));
      if (at === '') return;
    }
  };
  const keep = (inode: bigint, path: string): void => {
    kept.set(inode, path);
    make(path);
  };
  const named = new Set<bigint>();
  /** That another name of what is there is to be made. A folder that gets another name moves no time of what is in it. */
  const name = ({ kind, inode }: TreeEntry): void => {
    const home = homes.get(inode);
    if (kind === 'file' && home !== undefined) keep(inode, home);
    if (kind === 'other') named.add(inode);
  };
  let inside: string | undefined;
  for (const [path, entry] of now) {
    if (inside !== undefined && path.startsWith(`${inside}/`)) {
      make(path);
      name(entry);
      continue;
    }
    const was = before.get(path);
    const same = isSame(was, entry);
    const home = homes.get(entry.inode);
    const isHome = entry.kind === 'file' && home === path;
    if (same && was?.mark === entry.mark) {
      if (!isHome || !doubtful(entry.inode)) continue;
      if (!made.has(path)) doubted.add(path);
      keep(entry.inode, path);
      continue;
    }
    if (entry.kind === 'whiteout' && !plain) {
      removed.push(path);
      continue;
    }
    make(path);
    doubted.delete(path);
    if (entry.kind === 'folder') {
      if (!plain && hides(was, entry)) {
        removed.push(path);
        whole.add(path);
        inside = path;
      } else if (was !== undefined && was.kind !== 'folder') removed.push(path);
      continue;
    }
    name(entry);
    if (!isHome) removed.push(path);
  }
  // What is no file is made anew, and so are all its names.
  for (const [path, { kind, inode }] of now) {
    if (kind !== 'other' || !named.has(inode) || made.has(path)) continue;
    make(path);
    removed.push(path);
  }
  return { removed, made, whole, kept, doubted, plain };
}

function isSame(was: TreeEntry | undefined, entry: TreeEntry): boolean {
  return was !== undefined && was.kind === entry.kind && was.inode === entry.inode;
}

/** A folder that newly hides what lower layers have of it. */
function hides(was: TreeEntry | undefined, entry: TreeEntry): boolean {
  return entry.opaque && !(isSame(was, entry) && was?.opaque === true);
}

/** By inode, a name that each file had before and still has. */
function homesOf(before: TreeState, now: TreeState, plain: boolean): Map<bigint, string> {
  const homes = new Map<bigint, string>();
  let inside: string | undefined;
  for (const [path, entry] of now) {
    if (inside !== undefined && path.startsWith(`${inside}/`)) continue;
    const was = before.get(path);
    if (entry.kind === 'folder' && !plain && hides(was, entry)) inside = path;
    if (entry.kind !== 'file' || homes.has(entry.inode) || !isSame(was, entry)) continue;
    homes.set(entry.inode, path);
  }
  return homes;
}

/** Whether there is nothing to do. */
export function isUnchanged({ removed, made }: TreeChanges): boolean {
  return removed.length === 0 && made.size === 0;
}

/** The state when a copy of it has left some of it out: whatever is there next time is made, or removed. */
export function leavingOut(state: TreeState, paths: readonly string[]): TreeState {
  if (paths.length === 0) return state;
  const out = new Set(paths);
  const isOut = (path: string): boolean => {
    for (let at = path; ; at = at.slice(0, at.lastIndexOf('/'))) {
      if (out.has(at)) return true;
      if (!at.includes('/')) return false;
    }
  };
  const unknown = (entry: TreeEntry): TreeEntry => ({ ...entry, inode: -1n, mark: '' });
  return new Map(
    [...state].map(([path, entry]) => [path, isOut(path) ? unknown(entry) : entry] as const),
  );
}
