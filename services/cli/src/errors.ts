import type { CommanderError } from 'commander';

/** Exit statuses of `ferry`; part of its contract. */
export const exitCodes = { ok: 0, failed: 1, usage: 2, unreachable: 3 } as const;

/** Codes of errors that mean "nobody answers there". */
const unreachableCodes = new Set(['rpc.unavailable', 'rpc.deadline']);
/** Codes of errors that the user's arguments caused. */
const usageCodes = new Set(['cli.usage']);

interface ErrorShape {
  code?: unknown;
  remedy?: unknown;
  problems?: unknown;
}

interface ProblemShape {
  readonly code?: string;
  readonly object?: string;
  readonly reason?: string;
  readonly remedy?: string;
}

/** Writes an error for people on stderr; with `--json` among the arguments, as one JSON object
 *  there.
 *  @returns the exit status it stands for */
export function reportError(error: unknown, args: readonly string[]): number {
  if (isCommanderError(error)) {
    // Help and version end here too, with status 0; commander has printed its text already.
    return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  }
  const shape = (error instanceof Error ? error : {}) as ErrorShape;
  const code = typeof shape.code === 'string' ? shape.code : 'internal';
  const problems = Array.isArray(shape.problems) ? (shape.problems as ProblemShape[]) : [];
  const beforeProgram = args.includes('--') ? args.slice(0, args.indexOf('--')) : args;
  if (beforeProgram.includes('--json')) {
    const message = errorMessage(error);
    const body = { error: { code, message, remedy: shape.remedy ?? '', problems } };
    process.stderr.write(`${JSON.stringify(body)}\n`);
  } else {
    process.stderr.write(errorLines(error, shape, problems).join('\n').concat('\n'));
  }
  if (unreachableCodes.has(code)) return exitCodes.unreachable;
  if (usageCodes.has(code)) return exitCodes.usage;
  return exitCodes.failed;
}

function errorLines(
  error: unknown,
  shape: ErrorShape,
  problems: readonly ProblemShape[],
): string[] {
  const lines = [`ferry: ${errorMessage(error)}`];
  for (const problem of problems) {
    const object = problem.object ? `${problem.object}: ` : '';
    const remedy = problem.remedy ? ` Remedy: ${problem.remedy}` : '';
    lines.push(`  - ${object}${problem.reason ?? problem.code ?? ''}.${remedy}`);
  }
  if (typeof shape.remedy === 'string' && shape.remedy !== '')
    lines.push(`Remedy: ${shape.remedy}`);
  if (process.env.FERRY_DEBUG && error instanceof Error) lines.push(error.stack ?? '');
  return lines;
}

function errorMessage(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error
    ? `${error.message}: ${errorMessage(error.cause)}`
    : error.message;
}

/** By its code: commander itself is loaded only by commands. */
function isCommanderError(error: unknown): error is CommanderError {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' && code.startsWith('commander.');
}
