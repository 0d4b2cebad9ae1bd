import type { Wishes } from '../support/operator-main.js';
import { criuRows } from './criu.js';
import type { LiveRow } from './figures.js';
import { moves, rowOf } from './moves.js';
import type { Running } from './subjects.js';

/** Each takes a second and more. */
const CRIU_RUNS = 10;

/** A way to move something: a row of a table. */
export interface Way {
  readonly wishes: Wishes;
  readonly runs: number;
  /** In place of the mode that the migrations report. */
  readonly label?: string;
}

/** The same container moved in several ways, one after the other, then ended.
 *  @param ways  by custom stop-and-copy first
 *  @returns a row for each; then one of CRIU, where that works */
export async function compare(
  running: Running,
  name: string,
  ways: readonly Way[],
  say: (line: string) => void,
): Promise<LiveRow[]> {
  const rows: LiveRow[] = [];
  let before = 0;
  for (const { wishes, runs, label } of ways) {
    say(`${name}, ${label ?? wishes.mode}`);
    const made = await moves(running, wishes, runs, say);
    const errors = await running.mistakes();
    const mode = label === undefined ? {} : { mode: label };
    rows.push(rowOf(name, made, { errors: errors - before, ...mode }));
    before = errors;
  }
  const late = (await running.stop()) - before;
  if (late > 0) say(`${late} mistakes were found at the end, and count for each row`);
  const own = rows.map((row) => ({ ...row, errors: row.errors + Math.max(0, late) }));
  return [...own, ...(await criuRows(name, running.plain, CRIU_RUNS, say))];
}

/** Stop-and-copy, then what Ferry does when nothing is said. */
export function bothWays(runs: number, stopCopyRuns = runs): Way[] {
  return [
    { wishes: { mode: 'stop-copy' }, runs: stopCopyRuns },
    { wishes: { mode: 'auto' }, runs },
  ];
}
