import { fstatSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Mapping, parseMappings, tryReadProc } from '@ferry/linux';
import { openBeneath, openFolder, unlessGone } from './archive/raw-fs.js';

const O_PATH = 0o10000000;
/** Of a mapping whose file has lost the name that it was opened by. */
const GONE = ' (deleted)';

/** Files that may be written through a mapping without a trace, by inode; `any`: which ones is not known. */
export type Mapped = ReadonlySet<bigint> | 'any';

/** Inodes that are mapped writable and shared, by device as stat(2) gives it. */
export function mappedFiles(hostPids: readonly number[]): Map<bigint, Set<bigint>> {
  const files = new Map<bigint, Set<bigint>>();
  for (const { device, inode } of writtenMappings(hostPids)) {
    const number = deviceNumber(device);
    const known = files.get(number);
    if (known === undefined) files.set(number, new Set([inode]));
    else known.add(inode);
  }
  return files;
}

/** Files of an overlay's upper layer that are mapped writable and shared. A file system learns of the first write to a page
 *  through a mapping (mm/memory.c: do_page_mkwrite), which moves the file's times, and of no further one until the page
 *  was written back.
 *  @param upper  its folder
 *  @param merged  where the overlay is mounted */
export function mappedInUpper(
  hostPids: readonly number[],
  { upper, merged }: { readonly upper: string; readonly merged: string },
): Mapped {
  const found = new Set<bigint>();
  const looked = new Set<string>();
  const [below, above] = [upper, merged].map((path) => statSync(path, { bigint: true }).dev);
  using root = openFolder(upper);
  for (const { device, inode, name } of writtenMappings(hostPids)) {
    const number = deviceNumber(device);
    // Kernels before 6.8 name the file below; and so they do of a folder of that file system that is mounted elsewhere.
    if (number === below) found.add(inode);
    if (number !== above || looked.has(name)) continue;
    looked.add(name);
    // As it is seen from the root of its mount namespace, or of ours.
    const path = name.startsWith(`${merged}/`) ? name.slice(merged.length) : name;
    const file = unlessGone(() => openBeneath(root, path.replace(/^\/+/, ''), O_PATH));
    if (file === undefined) {
      // Under another name, as a process with another root sees it, or as a link to what is deleted.
      if (!name.endsWith(GONE) || hasOtherNames(hostPids, name)) return 'any';
      continue;
    }
    using opened = file;
    found.add(fstatSync(opened.number, { bigint: true }).ino);
  }
  return found;
}

/** Of two looks. */
export function bothMapped(one: Mapped, other: Mapped): Mapped {
  return one === 'any' || other === 'any' ? 'any' : new Set([...one, ...other]);
}

function hasOtherNames(hostPids: readonly number[], name: string): boolean {
  for (const pid of hostPids) {
    for (const mapping of mappingsOf(pid)) {
      if (mapping.name !== name) continue;
      const range = `${mapping.start.toString(16)}-${mapping.end.toString(16)}`;
      const about = statSync(join('/proc', String(pid), 'map_files', range), {
        bigint: true,
        throwIfNoEntry: false,
      });
      if (about !== undefined && about.nlink > 0n) return true;
    }
  }
  return false;
}

function* writtenMappings(hostPids: readonly number[]): Generator<Mapping> {
  for (const pid of hostPids) {
    for (const mapping of mappingsOf(pid)) if (mapping.inode !== 0n) yield mapping;
  }
}

/** Those that are writable and shared; of thousands only they are parsed. */
function mappingsOf(hostPid: number): Mapping[] {
  const lines = tryReadProc(`/proc/${hostPid}/maps`)?.match(/^\S+ .w.s .*$/gm) ?? [];
  return parseMappings(lines.map((line) => `${line}\n`).join(''));
}

/** Of file systems without a block device the major is 0. */
function deviceNumber(device: string): bigint {
  const [major = 0n, minor = 0n] = device.split(':').map((part) => BigInt(`0x${part}`));
  return (minor & 0xffn) | (major << 8n) | ((minor & ~0xffn) << 12n);
}
