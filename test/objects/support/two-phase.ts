import { strict as assert } from 'node:assert';
import { closeSync, openSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type PageSegment, TreeCapture } from '@ferry/capture';
import { givenMounts, type OciConfig, restoreConfig } from '@ferry/container';
import {
  compileFinish,
  compileRefresh,
  compileSkeleton,
  restorer,
  type Skeleton,
  skeletonFits,
  type VanishedPages,
  without,
} from '@ferry/dumpbin';
import { type PageRun, TreeImage, validateTree } from '@ferry/image';
import { tryReadProc, writeMemory } from '@ferry/linux';
import { Loader, loaderCommand, loaderProgram } from '@ferry/migration';
import type { ObjectProgram } from '../table.js';
import { available, settleMs, TrialContainer } from './container.js';
import { inTrial, type Verdict } from './flavours.js';
import { differences, type Outside, observe } from './outside.js';
import { treeOf } from './processes.js';

const PAGE = 4096;
const runPagesMax = 256;
const timeoutMs = 30_000;

/** Moved as a live migration does it: processes are prepared from images of the running program, the first one taken
 *  while it starts; pages are written between; then it is frozen, and what differs is changed. */
export async function twoPhase(program: ObjectProgram): Promise<Verdict> {
  return inTrial(`two phases ${program.name}`, async (trial) => {
    await using source = new TrialContainer(trial, 'source');
    await using target = new TrialContainer(trial, 'target');
    const config = await source.configure(program, {});
    await source.run(config);
    using prepared = new Prepared();
    const { entry, args } = loaderCommand;
    const command = restoreConfig(config, [entry, ...args], available);
    await target.run(target.place(command), prepared.fds);
    prepared.started();
    try {
      await prepared.start(lookedAt(source.pid), target.pid);
    } catch (error) {
      // One that has nothing to try here has ended at once.
      await sleep(settleMs);
      if (trial.has('result')) return await source.verdict();
      throw error;
    }
    await source.ready();
    if (trial.has('result')) return await source.verdict();
    const later = lookedAt(source.pid);
    if (prepared.fits(later.image)) await prepared.refresh(later, target.pid);
    else {
      // It became another program while it started: prepared anew, as a migration does.
      await target.remove();
      prepared.anew();
      await target.run(target.place(command), prepared.fds);
      prepared.started();
      await prepared.start(later, target.pid);
    }
    await sleep(settleMs);
    const before = inside(source.pid);
    const last = await captured(source.pid, config);
    await source.remove();
    if (!prepared.fits(last.image)) {
      await target.remove();
      prepared.anew();
      await target.run(target.place(command), prepared.fds);
      prepared.started();
      await prepared.start(last, target.pid);
    }
    await prepared.finish(last, target.pid);
    await sleep(settleMs);
    const found = differences(before, inside(target.pid), program.volatile ?? []);
    const verdict = await target.verdict();
    if (found.length === 0 || process.env.FERRY_OBJECTS_OUTSIDE === 'ignore') return verdict;
    throw new Error(`It passes, but seen from outside:\n  ${found.slice(0, 40).join('\n  ')}`);
  });
}

interface Captured {
  readonly image: TreeImage;
  readonly pages: readonly { segment: PageSegment; content: Buffer }[];
}

/** The layout of a running tree and the content of its private pages; the tree runs on. */
function lookedAt(rootHostPid: number): Captured {
  using capture = TreeCapture.open(rootHostPid, { namespacesGiven: true });
  const image = received(capture.track().layout);
  return { image, pages: contents(capture.dirtyPages(), { mayVanish: true }) };
}

/** The image and the content of all pages; the tree is gone. */
async function captured(rootHostPid: number, config: OciConfig): Promise<Captured> {
  for (let attempt = 1; ; attempt++) {
    const options = { namespacesGiven: true, givenMounts: givenMounts(config) };
    using capture = TreeCapture.open(rootHostPid, options);
    capture.scan();
    capture.freeze();
    try {
      const image = received(capture.capture());
      const pages = contents(capture.segments(image));
      capture.kill();
      return { image, pages };
    } catch (error) {
      if ((error as { code?: string }).code !== 'capture.blocked' || attempt === 5) throw error;
    }
    capture.thaw();
    await sleep(20);
  }
}

/** As it comes from a peer. */
function received(image: TreeImage): TreeImage {
  const decoded = TreeImage.decode(TreeImage.encode(image).finish());
  validateTree(decoded);
  return decoded;
}

/** @param options  `mayVanish`: what cannot be read has been unmapped by the running program, and is left out */
function contents(segments: readonly PageSegment[], { mayVanish = false } = {}): Captured['pages'] {
  return segments.flatMap(split).flatMap((segment) => {
    const { hostPid, address, pages } = segment;
    try {
      return [{ segment, content: contentOf(hostPid, address, pages * PAGE) }];
    } catch (error) {
      if (mayVanish) return [];
      throw error;
    }
  });
}

/** Memory whatever its protection. */
function contentOf(hostPid: number, address: bigint, length: number): Buffer {
  const content = Buffer.alloc(length);
  const fd = openSync(`/proc/${hostPid}/mem`, 'r');
  try {
    if (readSync(fd, content, 0, length, address) !== length) throw new Error('A short read');
  } catch (cause) {
    const maps = tryReadProc(`/proc/${hostPid}/maps`) ?? 'it has ended';
    const range = `${length} bytes at ${address.toString(16)} of ${hostPid}`;
    throw new Error(`Cannot read ${range}: ${(cause as Error).message}\n${maps}`, { cause });
  } finally {
    closeSync(fd);
  }
  return content;
}

function split(segment: PageSegment): PageSegment[] {
  const parts: PageSegment[] = [];
  for (let at = 0; at < segment.pages; at += runPagesMax) {
    parts.push({
      ...segment,
      address: segment.address + BigInt(at * PAGE),
      targetAddress: segment.targetAddress + BigInt(at * PAGE),
      pages: Math.min(runPagesMax, segment.pages - at),
    });
  }
  return parts;
}

/** What this test keeps of the destination's side. */
class Prepared implements Disposable {
  #loader = Loader.create(loaderProgram());
  #skeleton: Skeleton | undefined;
  readonly #written = new Map<number, Set<bigint>>();

  get fds(): number[] {
    return this.#loader.fds;
  }

  started(): void {
    this.#loader.closeChildEnds();
  }

  anew(): void {
    this.#loader.close();
    this.#written.clear();
    this.#loader = Loader.create(loaderProgram());
  }

  fits(image: TreeImage): boolean {
    return skeletonFits(image, this.#made).length === 0;
  }

  async start(first: Captured, target: number): Promise<void> {
    const { skeleton, programs } = compileSkeleton(first.image, { restorer: restorer() });
    this.#skeleton = skeleton;
    await this.#loader.loadSkeleton(programs);
    await this.#loader.laidOut(AbortSignal.timeout(timeoutMs));
    this.#write(first, target);
  }

  async refresh(later: Captured, target: number): Promise<void> {
    const { skeleton, programs } = compileRefresh(later.image, this.#made);
    this.#skeleton = skeleton;
    await this.#loader.loadRefresh(programs);
    await this.#loader.adjusted(AbortSignal.timeout(timeoutMs));
    this.#write(later, target);
  }

  async finish(last: Captured, target: number): Promise<void> {
    const signal = AbortSignal.timeout(timeoutMs);
    const vanished = this.#vanished(last.image);
    await this.#loader.loadFinish(compileFinish(last.image, this.#made, { vanished }));
    await this.#loader.adjusted(signal);
    this.#write(last, target);
    await this.#loader.pagesWritten();
    await this.#loader.ready(signal);
    await this.#loader.go();
    assert(this.#loader.ran, 'it ended before anything ran');
  }

  /** Pages of private memory that were written and that the image does not have. */
  #vanished(image: TreeImage): VanishedPages {
    const processes = new Map<number, PageRun[]>();
    for (const { pid, mm } of image.processes) {
      const written = [...(this.#written.get(pid) ?? [])].sort((a, b) => (a < b ? -1 : 1));
      const runs = written.map((address) => ({ address, pages: 1n }));
      processes.set(pid, without(runs, mm?.runs ?? []));
    }
    return { processes, objects: new Map() };
  }

  get #made(): Skeleton {
    if (this.#skeleton === undefined) throw new Error('There is no skeleton yet');
    return this.#skeleton;
  }

  /** Writes pages that are not there yet: what an earlier round wrote must have survived. */
  #write({ pages }: Captured, target: number): void {
    const hostPids = new Map(treeOf(target).map((pid) => [innerPid(pid), pid]));
    for (const { segment, content } of pages) {
      const hostPid = hostPids.get(segment.pid);
      if (hostPid === undefined) throw new Error(`There is no process ${segment.pid}`);
      const there = contentOf(hostPid, segment.targetAddress, content.length);
      for (const run of differing(there, content)) {
        const from = Number(run.address);
        const bytes = content.subarray(from, from + Number(run.pages) * PAGE);
        writeMemory(hostPid, segment.targetAddress + run.address, bytes);
        this.#note(segment.pid, segment.targetAddress + run.address);
      }
    }
  }

  #note(pid: number, address: bigint): void {
    const pages = this.#written.get(pid) ?? new Set();
    this.#written.set(pid, pages.add(address));
  }

  [Symbol.dispose](): void {
    this.#loader.close();
  }
}

function differing(a: Buffer, b: Buffer): PageRun[] {
  const runs: PageRun[] = [];
  for (let at = 0; at < a.length; at += PAGE) {
    if (a.compare(b, at, at + PAGE, at, at + PAGE) === 0) continue;
    runs.push({ address: BigInt(at), pages: 1n });
  }
  return runs;
}

/** NaN when it has just ended. */
function innerPid(hostPid: number): number {
  const status = tryReadProc(`/proc/${hostPid}/status`);
  return Number(/^NSpid:\s.*?(\d+)$/m.exec(status ?? '')?.[1]);
}

/** What /proc says, with the processes' numbers in their container; what is a number of the host is left out. */
function inside(root: number): Outside {
  const pids = new Map(treeOf(root).map((pid) => [`${pid}`, `${innerPid(pid)}`]));
  const seen = new Map<string, string>();
  for (const [key, value] of observe(root)) {
    const [pid = '', ...what] = key.split(' ');
    const name = what.join(' ');
    if (/^(ppid|pgrp|session|cgroup|thread|fd|fdinfo|exe|cwd|root|limits)\b/.test(name)) continue;
    seen.set(`${pids.get(pid)} ${name}`, value.replace(/ [0-9a-f]+:[0-9a-f]+ /, ' '));
  }
  return seen;
}
