import type { ObjectProgram } from '../table.js';
import { AREAS, areaOf } from './areas.js';
import type { KnownBlocker } from './blockers.js';
import type { Result, Results } from './results.js';

export interface Coverage {
  readonly programs: readonly ObjectProgram[];
  readonly results: Results;
  readonly blockers: readonly KnownBlocker[];
  /** The comment at the beginning of a program's source. */
  readonly aboutOf: (source: string) => string;
}

/** What the page shows of each program: title and flavour. */
export const COLUMNS = [
  ['as a process tree', 'tree'],
  ['left running', 'rollback'],
  ['in a container', 'containerMove'],
  ['live', 'twoPhase'],
] as const;

/** docs/coverage.md: what is carried, object by object, as the tests have found it; then every blocker with its remedy.
 *  Pure. */
export function renderCoverage({ programs, results, blockers, aboutOf }: Coverage): string {
  const lines = [
    '# What is carried',
    '',
    'Made by `npm run coverage` from the results of `test/objects` and from the blockers in the code. Not to be edited.',
    '',
    'Each row is one self-checking program. **yes**: it went on as if nothing had been; **blocker**: it is refused by name,',
    'with a remedy, before anything is frozen or while it can still go on, and it is not disturbed; **not yet**: known',
    'not to work; **no**: the test failed; –: not tried (a column that does not apply, or no result).',
    '',
    summary(programs, results),
  ];
  for (const [area] of AREAS) {
    const own = programs.filter((program) => areaOf(sourceOf(program)) === area);
    if (own.length > 0) lines.push('', ...section(area, own, results, aboutOf));
  }
  lines.push('', '## Blockers', '', '| code | why | remedy |', '| --- | --- | --- |');
  for (const { code, reason, remedy } of blockers) {
    lines.push(`| \`${code}\` | ${cell(reason)} | ${cell(remedy)} |`);
  }
  return `${lines.join('\n')}\n`;
}

function section(
  area: string,
  programs: readonly ObjectProgram[],
  results: Results,
  aboutOf: Coverage['aboutOf'],
): string[] {
  const lines = [`## ${area}`];
  const sources = [...new Set(programs.map(sourceOf))].sort();
  for (const source of sources) {
    lines.push('', cell(aboutOf(source)), '');
    lines.push(`| object | ${COLUMNS.map(([title]) => title).join(' | ')} | remark |`);
    lines.push(`| --- |${' --- |'.repeat(COLUMNS.length + 1)}`);
    for (const program of programs.filter((each) => sourceOf(each) === source)) {
      const cells = COLUMNS.map(([, flavour]) => verdict(program, flavour, results));
      lines.push(`| ${program.name} | ${cells.join(' | ')} | ${cell(remark(program))} |`);
    }
  }
  return lines;
}

const WORDS: Record<Result, string> = {
  carried: 'yes',
  refused: 'blocker',
  failed: '**no**',
  skipped: '–',
};

type Flavour = (typeof COLUMNS)[number][1];

function verdict(program: ObjectProgram, flavour: Flavour, results: Results): string {
  const missing: Readonly<Record<string, string>> = program.missing ?? {};
  if (missing[flavour] !== undefined) return 'not yet';
  const own = results[program.name] ?? {};
  // A program that may be refused is tried once, as a tree.
  const result = own[flavour] ?? (flavour === 'tree' ? own.carriedOrRefused : undefined);
  return result === undefined ? '–' : WORDS[result];
}

function remark({ missing, later, hostOnly }: ObjectProgram): string {
  return [...new Set([...Object.values(missing ?? {}), later, hostOnly])]
    .filter((text) => text !== undefined)
    .join('; ');
}

function summary(programs: readonly ObjectProgram[], results: Results): string {
  const counts = COLUMNS.map(([title, flavour]) => {
    const all = programs.map((program) => verdict(program, flavour, results));
    const yes = all.filter((word) => word === 'yes').length;
    const blocked = all.filter((word) => word === 'blocker').length;
    const open = all.filter((word) => word === 'not yet' || word === '**no**').length;
    return `${title} ${yes} carried, ${blocked} blockers, ${open} not yet`;
  });
  return `${programs.length} programs: ${counts.join('; ')}.`;
}

function sourceOf({ source, name }: ObjectProgram): string {
  return source ?? name;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ');
}
