import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { type Blocker, blockerText, FerryError } from '@ferry/core';
import { compileTree, restorer, type WriteProgress, writeDumpFiles } from '@ferry/dumpbin';
import { encodeTreeFile, TREE_FILE } from '@ferry/image';
import { TreeCapture } from './tree-capture.js';

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
  readonly scanMs: number;
  readonly freezeMs: number;
  readonly captureMs: number;
  readonly writeMs: number;
  /** From the first thread stopped to the last one let go (or killed). */
  readonly frozenMs: number;
}

/** Checkpoints the tree below a process into a directory that does not exist yet. On any failure the tree runs on and
 *  the directory is not there.
 *  @throws FerryError capture.blocked with all blockers; capture.*, dumpbin.*, dump.* */
export function dumpTree(hostPid: number, folder: string, options: DumpOptions): DumpReport {
  const target = resolve(folder);
  if (existsSync(target)) {
    throw new FerryError('dump.exists', `${target} exists already`, {
      remedy: 'give a directory that does not exist yet',
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
  restorer();
  const scanMs = times();
  const partial = join(dirname(target), `.${basename(target)}.${process.pid}.partial`);
  mkdirSync(partial, { mode: 0o700 });
  try {
    const frozen = stopwatch();
    capture.freeze();
    const freezeMs = times();
    const image = capture.capture();
    const captureMs = times();
    const tree = compileTree(image, { pages: 'embedded', restorer: restorer() });
    const bytes = writeDumpFiles(partial, tree, {
      restorer: restorer(),
      readPages: (pid, read, offset, into) => capture.readPages(pid, read, offset, into),
      ...(options.progress === undefined ? {} : { progress: options.progress }),
    });
    writeFileSync(join(partial, TREE_FILE), encodeTreeFile(image), { mode: 0o600 });
    renameSync(partial, target);
    const writeMs = times();
    if (options.leaveRunning) capture.thaw();
    else capture.kill();
    const living = image.processes.filter((p) => p.state !== 'zombie');
    const sum = (count: (p: (typeof living)[number]) => number): number =>
      living.reduce((n, p) => n + count(p), 0);
    return {
      folder: target,
      rootPid: image.rootPid,
      processes: image.processes.length,
      threads: sum((p) => p.threads.length),
      descriptors: sum((p) => p.descriptors.length),
      mappings: sum((p) => p.mm?.vmas.length ?? 0),
      pages: tree.dumps.reduce((n, dump) => n + dump.pagesLength / 4096, 0),
      bytes,
      scanMs,
      freezeMs,
      captureMs,
      writeMs,
      frozenMs: frozen(),
    };
  } catch (error) {
    rmSync(partial, { recursive: true, force: true });
    throw error;
  }
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
