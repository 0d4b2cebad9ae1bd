import { constants } from 'node:fs';
import type { OwnedFd } from '@ferry/linux';
import { ByteReader } from './byte-reader.js';
import { damaged, LIMITS, pathComponents } from './format.js';
import { type PackOptions, packTree } from './pack.js';
import { O_PATH, openBeneath, openFolder, removeTree, unlessGone } from './raw-fs.js';
import { isUnchanged, type TreeChanges } from './tree-state.js';
import { type UnpackOptions, unpackTree } from './unpack.js';

/** Changes of a tree as a stream: how many paths to remove (u32), each with its length (u32), then an
 *  archive of what is to be made. Nothing at all where there are none. */
export async function* packChanges(
  root: string | OwnedFd,
  changes: TreeChanges,
  options: Pick<PackOptions, 'signal' | 'leftOut' | 'looked' | 'sent' | 'ownFiles'> = {},
): AsyncGenerator<Buffer, void, undefined> {
  if (isUnchanged(changes)) return;
  const head = Buffer.alloc(4);
  head.writeUInt32LE(changes.removed.length);
  const paths = changes.removed.flatMap((path) => {
    const bytes = Buffer.from(path, 'latin1');
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    return [length, bytes];
  });
  yield Buffer.concat([head, ...paths]);
  yield* packTree(root, { ...options, only: changes });
}

/** Brings changes of an overlay's upper layer into a tree that is seen through an overlay, mounted at `merged`. The stream
 *  may be hostile: nothing outside is touched. When it fails some of them are made.
 *  @throws FerryError container.archive; SysError; the abort reason */
export async function unpackChanges(
  merged: string,
  chunks: AsyncIterable<Buffer>,
  options: Pick<UnpackOptions, 'signal'> = {},
): Promise<void> {
  const reader = new ByteReader(chunks);
  try {
    if (await reader.atEnd()) return;
    using root = openFolder(merged);
    await readChanges(root, reader, options);
    if (!(await reader.atEnd())) throw damaged('the changes are followed by something else');
  } finally {
    await reader.close();
  }
}

/** Brings the changes that are next in a stream into the tree below `root`, as `unpackChanges`. */
export async function readChanges(
  root: OwnedFd,
  reader: ByteReader,
  options: Pick<UnpackOptions, 'signal' | 'plain' | 'maker'> = {},
): Promise<void> {
  const count = await reader.u32();
  if (count > LIMITS.entries) throw damaged(`${count} paths to remove`);
  for (let i = 0; i < count; i++) {
    const length = await reader.u32();
    if (length > LIMITS.pathBytes) throw damaged(`a path of ${length} bytes`);
    const components = pathComponents((await reader.read(length)).toString('latin1'));
    const name = components.pop();
    if (name === undefined) throw damaged('the root is to be removed');
    const parent = unlessGone(() =>
      openBeneath(root, components.join('/'), O_PATH | constants.O_DIRECTORY),
    );
    if (parent === undefined) continue; // it went with a folder above
    using folder = parent;
    removeTree(folder, name);
  }
  await unpackTree(root, reader, { ...options, into: 'changed' });
}
