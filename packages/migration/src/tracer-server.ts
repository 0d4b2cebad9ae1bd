import { existsSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Rehearsal, TreeCapture } from '@ferry/capture';
import type { FileText } from '@ferry/container';
import { errorText, FerryError } from '@ferry/core';
import { TreeImage } from '@ferry/image';
import { canTrackWrites, collectYoung, holdOptimizer, LandlockDomains } from '@ferry/linux';
import { SegmentTable } from '@ferry/pages';
import { readDecision } from './journal.js';
import { splitLater } from './later-pages.js';
import {
  decodeNetworkWord,
  NETWORK_FD,
  NETWORK_WORD_BYTES,
  type Reconnection,
  type TracerAnswer,
  type TracerCapture,
  type TracerLayout,
  type TracerRehearsal,
  type TracerRequest,
  type TracerRound,
  type TracerScan,
} from './tracer-protocol.js';

/** The tracer's side: holds one tree by ptrace, which dies with the thread that holds it (ptrace(2)). So it is a process
 *  of its own. When its agent is gone it lets the tree run on and connects it again; past COMMIT, which the agent's journal
 *  tells, it leaves it frozen (the cgroup freezer holds it then) and cut off: a network that were connected again would
 *  acknowledge what clients send to the copy elsewhere. */
export class TracerServer {
  #capture: TreeCapture | undefined;
  #reconnection: Reconnection | undefined;
  #frozen = false;
  /** The journal entry that decides. */
  #entry: string | undefined;
  #putBack: readonly FileText[] = [];
  #rehearsal: Rehearsal | undefined;
  /** In the rounds between the first and the freeze, and in that: what it has begun to optimize is done by then. */
  #optimizerHeld: Disposable | undefined;

  handle(request: TracerRequest): TracerAnswer {
    try {
      return { ok: true, result: this.#perform(request) };
    } catch (error) {
      const known = error instanceof FerryError ? error : undefined;
      return {
        ok: false,
        code: known?.code ?? 'internal',
        message: errorText(error),
        remedy: known?.remedy,
      };
    }
  }

  /** The agent is gone. */
  async lost(): Promise<void> {
    if (!this.#frozen) {
      this.#putFilesBack();
      return;
    }
    // The agent's last write has ended: its descriptors, of which our channel is one, close after its last thread.
    const committing = this.#entry !== undefined;
    if (committing && (await readDecision(this.#entry ?? '')) === 'committed') return;
    this.#putFilesBack();
    try {
      if (committing) this.#thawGroup();
      this.#capture?.thaw();
    } finally {
      await this.#reconnect();
    }
  }

  #thawGroup(): void {
    const folder = this.#reconnection?.cgroup ?? '';
    const v2 = existsSync(join(folder, 'cgroup.freeze'));
    writeFileSync(join(folder, v2 ? 'cgroup.freeze' : 'freezer.state'), v2 ? '0' : 'THAWED');
  }

  #putFilesBack(): void {
    for (const { path, text } of this.#putBack) writeFileSync(path, text);
  }

  async #reconnect(): Promise<void> {
    if (this.#reconnection === undefined) return;
    const { config, nodeId, port, addresses } = this.#reconnection;
    const { ContainerNetwork } = await import('@ferry/container');
    new ContainerNetwork(config, nodeId).connect(port, addresses);
  }

  #rehearse(): TracerRehearsal {
    LandlockDomains.learn();
    this.#rehearsal ??= Rehearsal.start();
    const made = this.#rehearsal?.once();
    if (made?.layout === undefined) return undefined;
    return { layout: encoded(made.layout), image: encoded(made.image) };
  }

  /** Before another tree is opened nothing of this one may be left that would be done when the agent is lost. */
  #release(): void {
    if (this.#frozen) throw new FerryError('tracer.order', 'The tracer holds a tree');
    this.#endRehearsal();
    this.#capture?.[Symbol.dispose]();
    this.#capture = undefined;
    this.#letOptimize();
    this.#reconnection = undefined;
    this.#entry = undefined;
    this.#putBack = [];
  }

  #endRehearsal(): void {
    this.#rehearsal?.[Symbol.dispose]();
    this.#rehearsal = undefined;
  }

  #letOptimize(): void {
    this.#optimizerHeld?.[Symbol.dispose]();
    this.#optimizerHeld = undefined;
  }

  #perform(request: TracerRequest): unknown {
    if (request.method === 'rehearse') return this.#rehearse();
    if (request.method === 'open') {
      this.#endRehearsal();
      LandlockDomains.learn();
      const { hostPid, externalInodes, givenMounts, givenSettings, givenNetwork, reconnection } =
        request;
      this.#reconnection = reconnection;
      this.#capture = TreeCapture.open(hostPid, {
        externalInodes,
        namespacesGiven: true,
        givenMounts,
        givenSettings,
        ...(givenNetwork === undefined ? {} : { givenNetwork }),
      });
      return undefined;
    }
    if (request.method === 'release') {
      this.#release();
      return undefined;
    }
    const capture = this.#capture;
    if (capture === undefined) throw new FerryError('tracer.order', 'The tracer has no tree');
    switch (request.method) {
      case 'scan':
        return scan(capture);
      case 'track':
        collectYoung();
        return track(capture);
      case 'round': {
        const owed = round(capture);
        this.#optimizerHeld ??= holdOptimizer();
        return owed;
      }
      case 'putBack':
        this.#putBack = request.files;
        return undefined;
      case 'makeReady':
        this.#optimizerHeld ??= holdOptimizer();
        collectYoung();
        return undefined;
      case 'freeze':
        this.#frozen = true;
        capture.freeze();
        return undefined;
      case 'capture':
        return captured(capture, request.later, () => awaitCut(request.cut));
      case 'captureWhole':
        capture.putBack();
        capture.untrack();
        return captured(capture, false);
      case 'check':
        capture.check();
        return undefined;
      case 'thaw':
        capture.untrack();
        capture.thaw();
        this.#letOptimize();
        this.#frozen = false;
        this.#entry = undefined;
        return undefined;
      case 'commit':
        this.#entry = request.entry;
        return undefined;
      case 'kill':
        capture.kill();
        this.#frozen = false;
        return undefined;
    }
  }
}

function scan(capture: TreeCapture): TracerScan {
  const report = capture.scan();
  return {
    blockers: report.blockers,
    facts: report.facts,
    processes: report.processes.length,
    residentBytes: report.residentBytes,
    mappedFiles: report.mappedFiles,
    labels: report.labels,
  };
}

function track(capture: TreeCapture): TracerLayout {
  if (!canTrackWrites()) {
    const warnings = ['This host cannot note writes to memory: all of it moves while stopped'];
    return { image: undefined, stopMs: 0, warnings };
  }
  const { layout, stopMs, warnings } = capture.track();
  return { image: encoded(layout), stopMs, warnings };
}

function encoded(image: TreeImage): Buffer {
  return Buffer.from(TreeImage.encode(image).finish());
}

function round(capture: TreeCapture): TracerRound {
  const before = performance.now();
  const { written, doubtful } = capture.dirtySharedPages();
  const all = [...written, ...capture.dirtyPages(), ...doubtful];
  return {
    segments: SegmentTable.from(all).encode(),
    sharedSegments: written.length,
    doubtfulSegments: doubtful.length,
    followsShared: capture.followsShared,
    scanMs: performance.now() - before,
  };
}

/** @throws FerryError tracer.network when it was not cut, or the agent is gone */
function awaitCut(cut: number | undefined): void {
  if (cut === undefined) return;
  const word = Buffer.alloc(NETWORK_WORD_BYTES);
  for (let length = 0; ; ) {
    const more = readSync(NETWORK_FD, word, length, word.length - length, null);
    length += more;
    if (more === 0) break;
    if (length < word.length) continue;
    const said = decodeNetworkWord(word);
    if (said.cut === cut && said.done) return;
    if (said.cut === cut) break;
    length = 0;
  }
  throw new FerryError('tracer.network', "The container's network was not cut");
}

function captured(
  capture: TreeCapture,
  mayWait: boolean,
  beforeSockets?: () => void,
): TracerCapture {
  const image = capture.captureUnchecked(beforeSockets);
  const all = capture.segments(image);
  const { now, later } = mayWait ? splitLater(image, all) : { now: all, later: [] };
  const segments = SegmentTable.from([...now, ...later]).encode();
  return { image: encoded(image), segments, laterSegments: later.length };
}

/** Serves the agent that spawned this process, until it goes. */
export function serveAgent(): void {
  const server = new TracerServer();
  // A terminal's interrupt goes to the whole group; it is the agent that decides.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  process.on('disconnect', () => {
    server.lost().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`ferry-tracer: ${errorText(error)}\n`);
        process.exit(1);
      },
    );
  });
  process.on('message', (request: TracerRequest) => {
    process.send?.(server.handle(request));
  });
}
