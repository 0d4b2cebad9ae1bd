/** Ferry's errors. A failure is an exception; anything the caller chooses between is a returned value. */

/** An error with a stable code whose first word is the phase that failed (`capture.unsupportedFile`), a text for
 *  people, and where it is known the remedy. Across packages test `code`, not `instanceof`. */
export class FerryError extends Error {
  readonly code: string;
  readonly remedy: string | undefined;
  readonly detail: Record<string, string | number> | undefined;

  constructor(
    code: string,
    message: string,
    options: { cause?: unknown; remedy?: string; detail?: Record<string, string | number> } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'FerryError';
    this.code = code;
    this.remedy = options.remedy;
    this.detail = options.detail;
  }
}

/** A system call that failed: which one, the errno by name, and on what. Thrown by @ferry/linux only. */
export class SysError extends FerryError {
  readonly syscall: string;
  readonly errno: string;
  readonly errnoNumber: number;

  constructor(fields: {
    syscall: string;
    errno: string;
    errnoNumber: number;
    target?: string;
    text: string;
  }) {
    const target = fields.target === undefined ? '' : ` on ${fields.target}`;
    super(`linux.${fields.errno}`, `${fields.syscall}${target}: ${fields.text} (${fields.errno})`);
    this.name = 'SysError';
    this.syscall = fields.syscall;
    this.errno = fields.errno;
    this.errnoNumber = fields.errnoNumber;
  }
}

/** A broken assumption of ours: a bug. Caught only at a job or process boundary. */
export class InvariantError extends Error {
  override name = 'InvariantError';
}

/** Asserts what must hold; stays on in production. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new InvariantError(message);
}

/** The end of an exhaustive `switch`. */
export function unreachable(value: never): never {
  throw new InvariantError(`Unreachable case: ${JSON.stringify(value)}`);
}

/** The text of anything thrown, with its causes, on one line. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? '' : `: ${errorText(error.cause)}`;
  return `${error.message}${cause}`;
}
