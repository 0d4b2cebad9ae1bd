import { type BigIntStats, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { readXattrs } from '../src/archive/raw-fs.js';

/** What differs between two trees that nobody changes: names, which of them are of one file, kinds, modes, owners, times,
 *  attributes, content. */
export function differences(here: string, there: string): string[] {
  const [one, other] = [seen(here), seen(there)];
  const found: string[] = [];
  for (const path of new Set([...one.keys(), ...other.keys()])) {
    const [a, b] = [one.get(path), other.get(path)];
    if (a === undefined || b === undefined || a.about !== b.about) {
      found.push(`${path}: ${a?.about ?? 'nothing'}, there: ${b?.about ?? 'nothing'}`);
    } else if (a.content !== undefined && b.content !== undefined && !a.content.equals(b.content)) {
      const at = a.content.findIndex((byte, index) => b.content?.[index] !== byte);
      found.push(`${path}: byte ${at} of ${a.content.length} (${a.about})`);
    }
  }
  return found;
}

interface Seen {
  readonly about: string;
  readonly content: Buffer | undefined;
}

function seen(root: string): Map<string, Seen> {
  const all = new Map<string, Seen>();
  /** The first name of each file. */
  const firsts = new Map<bigint, string>();
  const note = (path: string): void => {
    const where = join(root, path);
    const about = lstatSync(where, { bigint: true });
    const isFolder = about.isDirectory();
    const first = isFolder ? path : (firsts.get(about.ino) ?? path);
    firsts.set(about.ino, first);
    all.set(path, {
      about: [...own(about, where), `as ${first}`].join(' '),
      content: about.isFile() && first === path ? readFileSync(where) : undefined,
    });
    if (!isFolder) return;
    for (const name of readdirSync(where).sort()) note(join(path, name));
  };
  note('.');
  return all;
}

function own(about: BigIntStats, where: string): unknown[] {
  const { mode, uid, gid, mtimeNs, nlink, size } = about;
  const xattrs = readXattrs(Buffer.from(where), (name) => name.startsWith('user.'));
  return [
    ...[mode.toString(8), uid, gid, mtimeNs],
    ...(about.isDirectory() ? [] : [nlink, size]),
    ...(about.isSymbolicLink() ? [readlinkSync(where)] : []),
    ...xattrs.map(({ name, value }) => `${name}=${value.toString('hex')}`),
  ];
}
