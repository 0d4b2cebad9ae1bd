import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { type Blocker, blockerText, FerryError } from '@ferry/core';
import {
  compileTree,
  type PageRead,
  type PageReader,
  restorer,
  type WriteProgress,
  writeDumpFiles,
} from '@ferry/dumpbin';
import { encodeTreeFile, lossesOf, type Process, TREE_FILE, type TreeImage } from '@ferry/image';
import { beUrgent } from '@ferry/linux';
import { rehearse } from './rehearsal.js';
import { TreeCapture } from './tree-capture.js';

/** Up to this many pages (256 MiB) a tree that runs on is thawed before its pages are written. */
const COPIED_PAGES_MAX = 65_536;

export interface DumpOptions {
  readonly leaveRunning: boolean;
  readonly progress?: (progress: WriteProgress) => void;
}

/** What a dump was. Times in milliseconds. */
export interface DumpReport {
  readonly folder: string;
  readonly rootPid: number;
  readonly processes: number;
  readonly threads: number;
  readonly descriptors: number;
  readonly mappings: number;
  readonly pages: number;
  readonly bytes: number;
  /** What is not carried, though nothing blocked. */
  readonly warnings: readonly string[];
  readonly scanMs: number;
  readonly freezeMs: number;
  readonly captureMs: number;
  readonly writeMs: number;
  /** From the first thread stopped to the last one let go (or killed). */
  readonly frozenMs: number;
}

/** Checkpoints the tree below a process into a directory that does not exist yet, or is empty. On any failure the tree
 *  runs on and nothing was put there.
 *  @throws FerryError capture.blocked with all blockers; capture.*, dumpbin.*, dump.* */
export function dumpTree(hostPid: number, folder: string, options: DumpOptions): DumpReport {
  const target = resolve(folder);
  if (!isFree(target)) {
    throw new FerryError('dump.exists', `${target} exists already`, {
      remedy: 'give a directory that is empty, or does not exist yet',
    });
  }
  if (!existsSync(dirname(target))) {
    throw new FerryError('dump.noParent', `${dirname(target)} does not exist`, {
      remedy: 'create it first',
    });
  }
  const times = stopwatch();
  using capture = TreeCapture.open(hostPid);
  const { blockers } = capture.scan();
  if (blockers.length > 0) throw blocked(blockers);
  // One that is ended does not notice how long it was frozen; whoever waits for the dump notices a rehearsal.
  if (options.leaveRunning) rehearse();
  const scanMs = times();
  const partial = join(dirname(target), `.${basename(target)}.${process.pid}.partial`);
  mkdirSync(partial, { mode: 0o700 });
  const urgency = beUrgent();
  try {
    const frozen = stopwatch();
    capture.freeze();
    const freezeMs = times();
    const image = capture.capture();
    const captureMs = times();
    const pages = options.leaveRunning ? copyPages(capture, image) : undefined;
    let frozenMs = 0;
    if (pages !== undefined) {
      capture.thaw();
      frozenMs = frozen();
    }
    urgency[Symbol.dispose]();
    const readPages: PageReader = pages ?? capture.readPages.bind(capture);
    const tree = compileTree(image, { pages: 'embedded', restorer: restorer() });
    const { progress } = options;
    const bytes = writeDumpFiles(partial, tree, {
      restorer: restorer(),
      readPages,
      ...(progress === undefined ? {} : { progress }),
    });
    writeFileSync(join(partial, TREE_FILE), encodeTreeFile(image), { mode: 0o600 });
    renameSync(partial, target);
    const writeMs = times();
    if (!options.leaveRunning) capture.kill();
    else capture.thaw();
    if (pages === undefined) frozenMs = frozen();
    const pageCount = tree.dumps.reduce((n, dump) => n + dump.pagesLength / 4096, 0);
    return {
      folder: target,
      ...counts(image),
      warnings: lossesOf(image),
      pages: pageCount,
      bytes,
      scanMs,
      freezeMs,
      captureMs,
      writeMs,
      frozenMs,
    };
  } catch (error) {
    urgency[Symbol.dispose]();
    rmSync(partial, { recursive: true, force: true });
    throw error;
  }
}

/** Nothing is there, or an empty directory, which the finished dump replaces in one step (rename(2)). */
function isFree(target: string): boolean {
  if (!existsSync(target)) return true;
  return lstatSync(target).isDirectory() && readdirSync(target).length === 0;
}

/** Copies all page contents, where they are few enough, so that the tree can run on before they are written. */
function copyPages(capture: TreeCapture, image: TreeImage): PageReader | undefined {
  const copies = new Map<string, Buffer>();
  const reads: { pid: number; read: PageRead }[] = [
    ...image.processes.flatMap((process) =>
      (process.mm?.runs ?? []).map((run) => ({
        pid: process.pid,
        read: { ...run, sharedMemoryId: 0 },
      })),
    ),
    ...image.sharedMemory.flatMap((object) =>
      object.runs.map((run) => ({
        pid: image.rootPid,
        read: { ...run, sharedMemoryId: object.id },
      })),
    ),
  ];
  const pages = reads.reduce((sum, { read }) => sum + Number(read.pages), 0);
  if (pages > COPIED_PAGES_MAX) return undefined;
  const key = (pid: number, read: PageRead): string =>
    `${read.sharedMemoryId === 0 ? pid : 0} ${read.sharedMemoryId} ${read.address}`;
  for (const { pid, read } of reads) {
    const copy = Buffer.allocUnsafeSlow(Number(read.pages) * 4096);
    capture.readPages(pid, read, 0, copy);
    copies.set(key(pid, read), copy);
  }
  return (pid, read, offset, into) => {
    copies.get(key(pid, read))?.copy(into, 0, offset, offset + into.length);
  };
}

function counts(image: TreeImage) {
  const living = image.processes.filter((p) => p.state !== 'zombie');
  const sum = (count: (p: Process) => number): number => living.reduce((n, p) => n + count(p), 0);
  return {
    rootPid: image.rootPid,
    processes: image.processes.length,
    threads: sum((p) => p.threads.length),
    descriptors: sum((p) => p.descriptors.length),
    mappings: sum((p) => p.mm?.vmas.length ?? 0),
  };
}

/** Milliseconds since it was made, or since it was last asked. */
function stopwatch(): () => number {
  let last = performance.now();
  return () => {
    const now = performance.now();
    const elapsed = now - last;
    last = now;
    return Math.round(elapsed * 1000) / 1000;
  };
}

/** All blockers as one error. */
export function blocked(blockers: readonly Blocker[]): FerryError {
  return new FerryError('capture.blocked', blockers.map(blockerText).join('\n'), {
    remedy: 'see above; nothing was frozen',
  });
}
