import { dirname, join } from 'node:path';
import type { FileObject, RegularFile } from '@ferry/image';
import type { DataRef, ProgramBuilder, Slot } from '../program.js';
import { emitOpen, emitOpenAt, grouping, inodeKey, O_CREAT, O_EXCL, O_RDWR } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';

const EEXIST = 17;
const NS = 1_000_000_000n;

/** Regular files: opened by path. One that has no name any more is made again from the content in the image, opened
 *  once for each description of it, and unlinked. */
export const regularEmitter: FileEmitter = {
  create(b, file, ctx) {
    const { file: reference } = partOf(file);
    if (reference === undefined) return;
    if (!reference.deleted) emitOpen(b, file, reference.path, ctx);
    else if (ctx.once(`deleted:${inodeKey(reference)}`)) emitDeleted(b, file, ctx);
  },
};

function partOf(file: FileObject): RegularFile {
  if (file.kind?.$case !== 'regular') throw new TypeError(`File ${file.id} is no regular file`);
  return file.kind.value;
}

const sameDeleted = grouping(({ kind }) =>
  kind?.$case === 'regular' && kind.value.file?.deleted ? inodeKey(kind.value.file) : undefined,
);

/** Everything about a deleted file that is the same under whichever name it is made. */
interface Deleted {
  readonly files: readonly FileObject[];
  readonly value: RegularFile;
  readonly content: DataRef;
  readonly contentLength: number;
  readonly times: DataRef;
  readonly made: Slot;
}

/** Under its old name, so that its link in /proc reads as before; under a name of ours when another file has that. */
function emitDeleted(b: ProgramBuilder, file: FileObject, ctx: EmitContext): void {
  const files = sameDeleted(ctx.image, file);
  const owner = files.find((candidate) => partOf(candidate).content.length > 0) ?? file;
  const value = partOf(owner);
  const { path, mtimeNs } = value.file!;
  const content = withoutTrailingZeros(value.content);
  const deleted: Deleted = {
    files,
    value,
    content: b.bytes(content),
    contentLength: content.length,
    times: b.words(mtimeNs / NS, mtimeNs % NS, mtimeNs / NS, mtimeNs % NS),
    made: b.slotFor('deleted file'),
  };
  const other = b.label();
  const end = b.label();
  emitMake(b, path, deleted, true);
  b.op('jump', [deleted.made, -EEXIST], `${path}: is the name taken?`, { target: other });
  emitFill(b, path, deleted, ctx);
  b.op('jump', [0, 0], `${path} stands`, { target: end });
  b.place(other);
  const spare = join(dirname(path), `.ferry-${ctx.image.rootPid}-${value.file!.inode}`);
  emitMake(b, spare, deleted, false);
  emitFill(b, spare, deleted, ctx);
  b.place(end);
}

function emitMake(
  b: ProgramBuilder,
  path: string,
  { value, made }: Deleted,
  mayExist: boolean,
): void {
  const mode = value.file!.mode & 0o7777;
  b.sys('open', [b.cstr(path), O_CREAT | O_EXCL | O_RDWR, mode], `make deleted file ${path}`, {
    into: made,
    ...(mayExist ? { expect: { orErrno: EEXIST } } : {}),
  });
}

function emitFill(b: ProgramBuilder, path: string, deleted: Deleted, ctx: EmitContext): void {
  const { files, value, content, contentLength, times, made } = deleted;
  const { size, mode } = value.file!;
  const name = `deleted file ${path}`;
  b.sys('ftruncate', [made, size], `${name}: size`);
  if (contentLength > 0) {
    b.sys('pwrite64', [made, content, contentLength, 0], `${name}: content`, {
      expect: { value: contentLength },
    });
  }
  b.sys('fchown', [made, value.uid, value.gid], `${name}: owner`);
  b.sys('fchmod', [made, mode & 0o7777], `${name}: mode`);
  b.sys('utimensat', [made, 0, times, 0], `${name}: times`);
  b.sys('close', [made], `${name}: close`);
  const at = b.cstr(path);
  for (const file of files) emitOpenAt(b, file, { path, at }, ctx);
  b.sys('unlink', [at], `${name}: unlink`);
}

function withoutTrailingZeros(content: Buffer): Buffer {
  let length = content.length;
  while (length > 0 && content[length - 1] === 0) length--;
  return content.subarray(0, length);
}
