import type { FileObject, PipeEnd } from '@ferry/image';
import type { Argument, ProgramBuilder, Slot } from '../program.js';
import {
  emitPair,
  emitReopen,
  F_SETFL,
  grouping,
  O_ACCMODE,
  O_DIRECT,
  O_LARGEFILE,
  O_NONBLOCK,
} from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';

const F_SETPIPE_SZ = 1031;
const WRITE_ONLY = 1;
const READ_ONLY = 0;

/** pipe(2): all its descriptions are made when the first of them is. Content is written before anything can read, so
 *  it must fit; the size is set first. An end that nobody has is closed, which leaves the other one half closed. */
export const pipeEmitter: FileEmitter = {
  create(b, file, ctx) {
    const { pipeId } = partOf(file);
    if (ctx.once(`pipe:${pipeId}`)) emitPipe(b, endsOf(ctx.image, file), ctx);
  },
};

const endsOf = grouping(({ kind }) =>
  kind?.$case === 'pipe' ? `${kind.value.pipeId}` : undefined,
);

function partOf(file: FileObject): PipeEnd {
  if (file.kind?.$case !== 'pipe') throw new TypeError(`File ${file.id} is no pipe`);
  return file.kind.value;
}

function emitPipe(b: ProgramBuilder, ends: readonly FileObject[], ctx: EmitContext): void {
  const value = partOf(ends[0]!);
  const name = `pipe ${value.pipeId}`;
  const [reader, writer] = emitPair(b, name, (pair) => {
    b.sys('pipe2', [pair, 0], `${name}: create`);
  });
  b.sys('fcntl', [writer, F_SETPIPE_SZ, value.capacity], `${name}: ${value.capacity} bytes`, {
    expect: { value: value.capacity },
  });
  b.sys('fchown', [writer, value.uid, value.gid], `${name}: owner`);
  b.sys('fchmod', [writer, value.mode & 0o7777], `${name}: mode`);
  const full = ends.map(partOf).find((end) => end.content.length > 0);
  if (full !== undefined) emitContent(b, writer, full, name);
  const first = (access: number) =>
    ends.find(({ flags }) => (flags & (O_ACCMODE | O_LARGEFILE)) === access);
  const own = { reader: first(READ_ONLY), writer: first(WRITE_ONLY) };
  for (const end of ends) {
    if (end === own.reader || end === own.writer) continue;
    emitOtherDescription(b, end, reader, { name, ctx });
  }
  emitEnd(b, reader, own.reader, { name: `${name}: reading end`, ctx });
  emitEnd(b, writer, own.writer, { name: `${name}: writing end`, ctx });
}

/** A description of an end, opened through /proc once more. The pair's number is not known here, so that the end goes
 *  through the number that the description will have. */
function emitOtherDescription(
  b: ProgramBuilder,
  end: FileObject,
  reader: Slot,
  options: { name: string; ctx: EmitContext },
): void {
  const at = options.ctx.fdOf(end.id);
  b.sys('dup3', [reader, at, 0], `${options.name}: at ${at} for now`);
  emitReopen(b, end, at, options);
}

function emitEnd(
  b: ProgramBuilder,
  slot: Slot,
  file: FileObject | undefined,
  { name, ctx }: { name: string; ctx: EmitContext },
): void {
  if (file === undefined) {
    b.sys('close', [slot], `${name}: nobody has it`);
    return;
  }
  const to = ctx.fdOf(file.id);
  b.moveFd(slot, to, name);
  const flags = file.flags & (O_NONBLOCK | O_DIRECT);
  if (flags !== 0) b.sys('fcntl', [to, F_SETFL, flags], `${name}: flags`);
}

/** Writes what was in a pipe or FIFO; each packet (O_DIRECT) with a write of its own. */
export function emitContent(
  b: ProgramBuilder,
  writer: Argument,
  { content, packets }: { content: Buffer; packets: number[] },
  name: string,
): void {
  const at = b.bytes(content);
  if (packets.length > 0) b.sys('fcntl', [writer, F_SETFL, O_DIRECT], `${name}: packets`);
  let done = 0;
  for (const length of packets.length > 0 ? packets : [content.length]) {
    b.sys('write', [writer, at.plus(done), length], `${name}: content`, {
      expect: { value: length },
    });
    done += length;
  }
  if (packets.length > 0) b.sys('fcntl', [writer, F_SETFL, 0], `${name}: stream`);
}
