import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ferryRoot } from '@ferry/core';
import type { TreeImage } from '@ferry/image';
import { canTrackWrites, threadsOf } from '@ferry/linux';
import { SegmentTable } from '@ferry/pages';
import { TreeCapture } from './tree-capture.js';

/** V8 compiles a function on first use, and better after some. More than this hardly shortens the freeze that follows. */
const TIMES_BEFORE_DUMP = 3;
/** Of native/rehearsal.c, when it has made everything. */
const THREADS = 4;
const READY_MS_MAX = 200;

/** What one rehearsal made, as a migration would send it. */
export interface Rehearsed {
  /** Undefined where writes cannot be noted. */
  readonly layout: TreeImage | undefined;
  readonly image: TreeImage;
  readonly segments: Buffer;
}

/** A throw-away process with some of everything that processes often have. Capturing it makes that the code of a freeze
 *  has run before a freeze has to be short: on first use it takes several times as long. */
export class Rehearsal implements Disposable {
  readonly #child: ChildProcess;
  readonly #hostPid: number;

  private constructor(child: ChildProcess, hostPid: number) {
    this.#child = child;
    this.#hostPid = hostPid;
  }

  /** @returns undefined when its program is not there, or cannot be started */
  static start(): Rehearsal | undefined {
    const program = join(ferryRoot(), 'packages', 'capture', 'build', 'rehearsal');
    if (!existsSync(program)) return undefined;
    const child = spawn(program, [], { stdio: 'ignore' });
    child.on('error', () => {});
    child.unref();
    return child.pid === undefined ? undefined : new Rehearsal(child, child.pid);
  }

  /** Captures it once, in some ten milliseconds, all of them blocking; it runs on.
   *  @throws FerryError capture.* */
  once(): Rehearsed {
    this.#awaitReady();
    using capture = TreeCapture.open(this.#hostPid, { namespacesGiven: true });
    capture.scan();
    const layout = canTrackWrites() ? capture.track().layout : undefined;
    if (layout !== undefined) SegmentTable.from(capture.dirtyPages());
    capture.freeze();
    if (layout !== undefined) SegmentTable.from(capture.dirtyPages()).encode();
    const image = capture.capture();
    const segments = SegmentTable.from(capture.segments(image)).encode();
    return { layout, image, segments };
  }

  /** Stops it, reads its state and lets it go, so many times: what a freeze runs, and nothing beside it.
   *  @throws FerryError capture.* */
  freezes(times: number): void {
    this.#awaitReady();
    using capture = TreeCapture.open(this.#hostPid, { namespacesGiven: true });
    for (let i = 0; i < times; i++) {
      capture.freeze();
      capture.capture();
      capture.thaw();
    }
  }

  #awaitReady(): void {
    const deadline = performance.now() + READY_MS_MAX;
    const clock = new Int32Array(new SharedArrayBuffer(4));
    while (threadsOf(this.#hostPid).length < THREADS && performance.now() < deadline) {
      Atomics.wait(clock, 0, 0, 1);
    }
  }

  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL');
  }
}

/** Before a dump of a tree that runs on. Blocks for some hundred milliseconds. What goes wrong here says nothing of the
 *  dump. */
export function rehearse(): void {
  using rehearsal = Rehearsal.start();
  try {
    rehearsal?.freezes(TIMES_BEFORE_DUMP);
  } catch {
    // A host may forbid what the rehearsed process does.
  }
}
