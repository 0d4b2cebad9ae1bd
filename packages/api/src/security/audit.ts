import { appendFileSync } from 'node:fs';
import { errorText } from '@ferry/core';
import { status } from '@grpc/grpc-js';
import { type Caller, callerText } from './identity.js';

/** What is told of one call; every method may be called at any time, and only the first end counts. */
export interface AuditTrail {
  request(message: unknown): void;
  response(message: unknown): void;
  failed(error: unknown): void;
  cancelled(): void;
  ended(status: { readonly code?: number; readonly details?: string | undefined }): void;
}

const nothing = () => {};
export const notAudited: AuditTrail = {
  ...{ request: nothing, response: nothing, failed: nothing, cancelled: nothing, ended: nothing },
};

/** Fields of a request that say what it is about. Others may hold what is nobody else's business: arguments and
 *  environments of programs, file contents, tickets. */
const shownFields = [
  ...['name', 'node', 'to', 'container', 'mode', 'id', 'operation', 'reason', 'cron', 'dryRun'],
  ...['operationId', 'migrationId', 'checkpointId', 'requestId', 'epoch', 'address', 'again'],
  ...['sourceNode', 'sourceAddress', 'destinationNode', 'leaveRunning', 'keep', 'remove', 'atMs'],
] as const;
const TEXT_CHARS = 200;

/** `who` did `what` by `method`, and `result` came of it: "ok", or the code of an error. */
export type AuditEntry = Readonly<Record<string, unknown>>;

/** Tells of each call that changes something: who, what, when, what came of it. */
export class Auditor {
  readonly #write: (entry: AuditEntry) => void;

  /** @param write  takes what is told of one call */
  constructor(write: (entry: AuditEntry) => void) {
    this.#write = write;
  }

  /** Into a file, a line of JSON each.
   *  @param path  made with mode 0600; opened anew for each line, so that it can be rotated by renaming
   *  @param onProblem  told once when the file cannot be written; calls are served all the same */
  static toFile(path: string, onProblem: (text: string) => void): Auditor {
    let failing = false;
    return new Auditor((entry) => {
      try {
        appendFileSync(path, `${JSON.stringify(entry)}\n`, { mode: 0o600 });
        failing = false;
      } catch (error) {
        if (!failing) onProblem(`A call is not on record: ${errorText(error)}`);
        failing = true;
      }
    });
  }

  begin(call: { method: string; who: Caller | undefined; from: string }): AuditTrail {
    const time = new Date();
    const what: Record<string, unknown> = {};
    let over = false;
    const end = (result: string, message?: string) => {
      if (over) return;
      over = true;
      this.#write({
        time: time.toISOString(),
        who: call.who === undefined ? 'unknown' : callerText(call.who),
        from: call.from,
        method: call.method,
        what,
        result,
        ...(message === undefined || message === '' ? {} : { message: message.slice(0, 500) }),
        ms: Date.now() - time.getTime(),
      });
    };
    let asked = false;
    return {
      request(message) {
        if (asked) return;
        asked = true;
        Object.assign(what, shown(message));
      },
      response(message) {
        // An operation that began: its record tells the rest.
        const id = (message as { id?: unknown } | null)?.id;
        if (typeof id === 'string' && id !== '') what.began = id;
      },
      failed: (error) => end((error as { code?: string }).code ?? 'failed', errorText(error)),
      cancelled: () => end('cancelled'),
      ended: ({ code, details }) => end(code === status.OK ? 'ok' : nameOf(code), details ?? ''),
    };
  }
}

function nameOf(code: number | undefined): string {
  return Object.entries(status).find(([, value]) => value === code)?.[0] ?? String(code);
}

/** The telling fields of a message; of a streamed request, those of its first part. */
function shown(message: unknown): Record<string, unknown> {
  if (typeof message !== 'object' || message === null) return {};
  const fields = message as Record<string, unknown>;
  const result: Record<string, unknown> = {};
  for (const field of shownFields) {
    const value = fields[field];
    if (typeof value === 'string' && value !== '') result[field] = value.slice(0, TEXT_CHARS);
    if (typeof value === 'bigint' || typeof value === 'number') result[field] = String(value);
    if (typeof value === 'boolean' && value) result[field] = true;
  }
  const { spec, message: part } = fields as {
    spec?: { name?: unknown };
    message?: { $case?: unknown; value?: unknown };
  };
  if (typeof spec?.name === 'string') result.container = spec.name;
  if (typeof part?.$case === 'string') {
    Object.assign(result, typeof part.value === 'string' ? {} : shown(part.value));
    if (typeof part.value === 'string') result[part.$case] = part.value.slice(0, TEXT_CHARS);
  }
  return result;
}
