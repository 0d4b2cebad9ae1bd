import { TreeCapture } from '@ferry/capture';
import { errorText, FerryError } from '@ferry/core';
import { TreeImage } from '@ferry/image';
import { SegmentTable } from '@ferry/pages';
import type { TracerAnswer, TracerCapture, TracerRequest, TracerScan } from './tracer-protocol.js';

/** The tracer's side: holds one tree by ptrace, which dies with the thread that holds it (ptrace(2)). So it is a process
 *  of its own, and does one thing when its agent is gone: it lets the tree run on, or past COMMIT leaves it frozen (the
 *  cgroup freezer holds it then). */
export class TracerServer {
  #capture: TreeCapture | undefined;
  #committed = false;

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
  lost(): void {
    if (!this.#committed) this.#capture?.thaw();
  }

  #perform(request: TracerRequest): unknown {
    if (request.method === 'open') {
      const { hostPid, externalInodes } = request;
      this.#capture = TreeCapture.open(hostPid, { externalInodes });
      return undefined;
    }
    const capture = this.#capture;
    if (capture === undefined) throw new FerryError('tracer.order', 'The tracer has no tree');
    switch (request.method) {
      case 'scan':
        return scan(capture);
      case 'freeze':
        capture.freeze();
        return undefined;
      case 'capture':
        return captured(capture);
      case 'thaw':
        capture.thaw();
        return undefined;
      case 'ping':
        return undefined;
      case 'commit':
        this.#committed = true;
        return undefined;
      case 'kill':
        capture.kill();
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
  };
}

function captured(capture: TreeCapture): TracerCapture {
  const image = capture.capture();
  const segments = SegmentTable.from(capture.segments(image)).encode();
  return { image: Buffer.from(TreeImage.encode(image).finish()), segments };
}

/** Serves the agent that spawned this process, until it goes. */
export function serveAgent(): void {
  const server = new TracerServer();
  // A terminal's interrupt goes to the whole group; it is the agent that decides.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  process.on('disconnect', () => {
    server.lost();
    process.exit(0);
  });
  process.on('message', (request: TracerRequest) => {
    process.send?.(server.handle(request));
  });
}
