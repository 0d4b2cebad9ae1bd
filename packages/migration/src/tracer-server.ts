import { TreeCapture } from '@ferry/capture';
import { errorText, FerryError } from '@ferry/core';
import { TreeImage } from '@ferry/image';
import { SegmentTable } from '@ferry/pages';
import type {
  Reconnection,
  TracerAnswer,
  TracerCapture,
  TracerRequest,
  TracerScan,
} from './tracer-protocol.js';

/** The tracer's side: holds one tree by ptrace, which dies with the thread that holds it (ptrace(2)). So it is a process
 *  of its own. When its agent is gone it lets the tree run on and connects it again; past COMMIT it leaves it frozen (the
 *  cgroup freezer holds it then). */
export class TracerServer {
  #capture: TreeCapture | undefined;
  #reconnection: Reconnection | undefined;
  #frozen = false;
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
  async lost(): Promise<void> {
    if (this.#committed || !this.#frozen) return;
    try {
      this.#capture?.thaw();
    } finally {
      await this.#reconnect();
    }
  }

  async #reconnect(): Promise<void> {
    if (this.#reconnection === undefined) return;
    const { config, nodeId, port, addresses } = this.#reconnection;
    const { ContainerNetwork } = await import('@ferry/container');
    new ContainerNetwork(config, nodeId).connect(port, addresses);
  }

  #perform(request: TracerRequest): unknown {
    if (request.method === 'open') {
      const { hostPid, externalInodes, reconnection } = request;
      this.#reconnection = reconnection;
      this.#capture = TreeCapture.open(hostPid, { externalInodes });
      return undefined;
    }
    const capture = this.#capture;
    if (capture === undefined) throw new FerryError('tracer.order', 'The tracer has no tree');
    switch (request.method) {
      case 'scan':
        return scan(capture);
      case 'freeze':
        this.#frozen = true;
        capture.freeze();
        return undefined;
      case 'capture':
        return captured(capture);
      case 'thaw':
        capture.thaw();
        this.#frozen = false;
        return undefined;
      case 'ping':
        return undefined;
      case 'commit':
        this.#committed = true;
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
