import { appendFileSync, closeSync, fstatSync, openSync, readSync, watch } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

export type LogStream = 'stdout' | 'stderr';

export interface LogLine {
  /** When its first part was read from the container: RFC 3339, UTC. */
  readonly time: string;
  readonly stream: LogStream;
  readonly line: string;
}

export interface ReadLogOptions {
  /** Goes on with lines as they are written, until aborted or `isOver` says that none can come. */
  readonly follow?: boolean;
  /** Only the last lines: this many. */
  readonly tail?: number;
  readonly signal?: AbortSignal | undefined;
}

const recordSchema = z.object({
  time: z.string(),
  stream: z.enum(['stdout', 'stderr']),
  line: z.string().optional(),
  hex: z.string().optional(),
  partial: z.literal(true).optional(),
  lostBytes: z.number().optional(),
});

const READ_BYTES = 256 * 1024;
/** While following: the file is looked at when it changes, and this often in case a change went
 *  unseen. */
const FOLLOW_POLL_MS = 500;

/** Joins the records of the log file into the lines that the container wrote. */
export class LineJoiner {
  readonly #open = new Map<LogStream, { time: string; parts: Buffer[] }>();

  /** Takes one line of the file. Returns a line of the container, once it is complete. */
  take(text: string): LogLine | undefined {
    const record = parseRecord(text);
    if (record === undefined) return undefined;
    const { stream } = record;
    if (record.lostBytes !== undefined) {
      const line = `[ferry: ${record.lostBytes} bytes of log were lost, the disk was full]`;
      return { time: record.time, stream, line };
    }
    const bytes =
      record.hex === undefined ? Buffer.from(record.line ?? '') : Buffer.from(record.hex, 'hex');
    const open = this.#open.get(stream) ?? { time: record.time, parts: [] };
    open.parts.push(bytes);
    if (record.partial) {
      this.#open.set(stream, open);
      return undefined;
    }
    this.#open.delete(stream);
    return { time: open.time, stream, line: Buffer.concat(open.parts).toString('utf8') };
  }

  /** Lines that have begun and not ended: the container is gone, or they go on in records to
   *  come. */
  *rest(): Generator<LogLine> {
    for (const [stream, { time, parts }] of this.#open) {
      yield { time, stream, line: Buffer.concat(parts).toString('utf8') };
    }
    this.#open.clear();
  }
}

function parseRecord(text: string) {
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch {
    // A record that a full disk cut short.
    return undefined;
  }
}

/** The lines of a container's log file.
 *  @param isOver  whether nothing more can be written (the container and its log process have
 *    ended) */
export async function* readLogFile(
  path: string,
  options: ReadLogOptions & { isOver?: () => Promise<boolean> },
): AsyncGenerator<LogLine, void, undefined> {
  const { follow = false, tail, signal, isOver = async () => true } = options;
  const joiner = new LineJoiner();
  const cursor = new FileCursor(path);
  const backlog: LogLine[] = [];
  for await (const text of cursor.lines(signal)) {
    const line = joiner.take(text);
    if (line === undefined) continue;
    if (tail === undefined) yield line;
    else backlog.push(line);
    if (tail !== undefined && backlog.length > tail) backlog.shift();
  }
  // A line that has not ended is the last one, unless it is waited for.
  if (!follow) backlog.push(...joiner.rest());
  yield* tail === undefined
    ? backlog
    : backlog.slice(backlog.length - Math.min(tail, backlog.length));
  while (follow) {
    // Asked before the read: what was written until then is read below.
    const over = await isOver();
    for await (const text of cursor.lines(signal)) {
      const line = joiner.take(text);
      if (line !== undefined) yield line;
    }
    if (over) break;
    await changed(path, signal);
  }
  yield* joiner.rest();
}

/** Reads on in a growing file, whole lines only. */
class FileCursor {
  readonly #path: string;
  #position = 0;
  #rest: Buffer = Buffer.alloc(0);

  constructor(path: string) {
    this.#path = path;
  }

  async *lines(signal: AbortSignal | undefined): AsyncGenerator<string> {
    const file = await open(this.#path, 'r').catch(() => undefined);
    if (file === undefined) return;
    try {
      for (;;) {
        signal?.throwIfAborted();
        const buffer = Buffer.allocUnsafe(READ_BYTES);
        const { bytesRead } = await file.read(buffer, 0, READ_BYTES, this.#position);
        if (bytesRead === 0) return;
        this.#position += bytesRead;
        let bytes = Buffer.concat([this.#rest, buffer.subarray(0, bytesRead)]);
        for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10)) {
          yield bytes.toString('utf8', 0, end);
          bytes = bytes.subarray(end + 1);
        }
        this.#rest = bytes;
      }
    } finally {
      await file.close();
    }
  }
}

async function changed(path: string, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const done = new AbortController();
  const either = signal === undefined ? done.signal : AbortSignal.any([signal, done.signal]);
  let watcher: ReturnType<typeof watch> | undefined;
  try {
    watcher = watch(path, () => done.abort());
    watcher.on('error', () => done.abort());
    await sleep(FOLLOW_POLL_MS, undefined, { signal: either });
  } catch {
    // Either the file has changed or the caller has had enough; a file not there yet is polled for.
    if (watcher === undefined) await sleep(FOLLOW_POLL_MS);
  } finally {
    watcher?.close();
  }
  signal?.throwIfAborted();
}

/** The bytes of a log file from `from` to its present end. Read at once: a container may stand that waits for it, and a thread of
 *  the pool takes longer to have its turn than the page cache does. */
export async function* exportLogFile(
  path: string,
  options: { from: number; signal?: AbortSignal | undefined },
): AsyncGenerator<Buffer, void, undefined> {
  const file = openIfThere(path);
  if (file === undefined) return;
  try {
    const { size } = fstatSync(file);
    for (let at = options.from; at < size; ) {
      options.signal?.throwIfAborted();
      const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, size - at));
      const bytesRead = readSync(file, buffer, 0, buffer.length, at);
      if (bytesRead === 0) return;
      at += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    closeSync(file);
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch {
    return undefined;
  }
}

/** Appends to a log file what another host has exported. */
export async function importLogFile(path: string, chunks: AsyncIterable<Buffer>): Promise<void> {
  for await (const chunk of chunks) appendFileSync(path, chunk, { mode: 0o600 });
}

/** Size in bytes, 0 when there is none yet. */
export async function logFileBytes(path: string): Promise<number> {
  return await stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}
