import type { Process } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { infoText } from './info.js';
import { CHUNK, FLAG, HEADER_SIZE } from './layout.js';
import { elfHeader, type LinkedProgram, linkProgram, pagesOffsetOf } from './link.js';
import { PageCursor, type PageRead } from './memory-steps.js';
import { type DataRef, ProgramBuilder } from './program.js';
import type { Restorer } from './restorer.js';

/** One process's dump file, complete but for its page contents. */
export interface CompiledDump {
  readonly pid: number;
  readonly linked: LinkedProgram;
  readonly elfHeader: Buffer;
  /** Bytes of page contents that follow, from `pagesOffset` on. */
  readonly pagesLength: number;
  readonly pageReads: readonly PageRead[];
  readonly pagesOffset: number;
  /** Where the chunk hashes, and the root's table of the other files, stand in `linked.image`. */
  readonly chunkHashesAt: number;
  readonly childrenAt: number | undefined;
}

/** A program in the making. */
export interface Draft {
  readonly process: Process;
  readonly program: ProgramBuilder;
  readonly pages: PageCursor;
  chunkHashes: DataRef | undefined;
  info: { at: DataRef; length: number } | undefined;
  children: { at: DataRef; count: number } | undefined;
  namespaces: DataRef | undefined;
}

export function newDraft(process: Process): Draft {
  const program = new ProgramBuilder();
  return {
    process,
    program,
    pages: new PageCursor(process),
    chunkHashes: undefined,
    info: undefined,
    children: undefined,
    namespaces: undefined,
  };
}

/** Adds the data that the header points to. */
export function finishDraft(draft: Draft, ctx: CompileContext): void {
  const b = draft.program;
  draft.chunkHashes = b.reserve(Math.ceil(draft.pages.length / CHUNK) * 8);
  const text = Buffer.from(infoText(draft.process, ctx.image));
  draft.info = { at: b.bytes(text), length: text.length };
  if (draft.process.pid !== ctx.image.rootPid) return;
  const others = ctx.living.filter((process) => process.pid !== ctx.image.rootPid);
  const table = Buffer.alloc(others.length * 16);
  others.forEach((process, i) => {
    table.writeUInt32LE(process.pid, i * 16);
  });
  draft.children = { at: b.bytes(table), count: others.length };
}

export function link(
  draft: Draft,
  options: {
    ctx: CompileContext;
    restorer: Restorer;
    region: { start: bigint; length: number };
    identity: bigint;
    rootPid: number;
  },
): CompiledDump {
  const { ctx, restorer, region, identity, rootPid } = options;
  const { process, program, pages } = draft;
  const linked = linkProgram(program, {
    restorer,
    region: region.start,
    regionLength: region.length,
    pid: process.pid,
    flags: process.pid === rootPid ? FLAG.root : 0,
    serviceBase: ctx.serviceBase,
    identity,
    info: draft.info!,
    ...(draft.children === undefined ? {} : { children: draft.children }),
    ...(draft.namespaces === undefined ? {} : { namespaces: draft.namespaces }),
    pages: { length: pages.length, chunkHashes: draft.chunkHashes! },
  });
  return {
    pid: process.pid,
    linked,
    elfHeader: elfHeader(region.start + BigInt(region.length), linked.imageLength),
    pagesLength: pages.length,
    pageReads: pages.reads,
    pagesOffset: pagesOffsetOf(linked.imageLength),
    chunkHashesAt: linked.dataOffset + draft.chunkHashes!.offset,
    childrenAt:
      draft.children === undefined ? undefined : linked.dataOffset + draft.children.at.offset,
  };
}

/** Bytes in front of a draft's page contents. */
export function draftLength(draft: Draft, restorer: Restorer): number {
  const { ops, data } = draft.program.sizes;
  const imageLength = restorer.blob.length + Math.ceil((HEADER_SIZE + ops) / 64) * 64 + data;
  return pagesOffsetOf(imageLength);
}

/** Offsets of dump files that stand one after the other in a program store. */
export function storeOffsets(
  dumps: readonly { pid: number; pagesOffset: number }[],
  start = 0,
): Map<number, number> {
  const offsets = new Map<number, number>();
  let at = start;
  for (const dump of dumps) {
    offsets.set(dump.pid, at);
    at += dump.pagesOffset;
  }
  return offsets;
}
