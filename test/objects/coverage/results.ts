import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** What one trial of a program found: it went on, or was refused by name and left alone. */
export type Result = 'carried' | 'refused' | 'failed' | 'skipped';

/** By program, by flavour. */
export type Results = Readonly<Record<string, Readonly<Record<string, Result>>>>;

export function readResults(path: string): Results {
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {};
}

/** The results of this run, over those of earlier ones of programs that were not tried now. */
export function mergeResults(earlier: Results, now: Results): Results {
  const merged: Record<string, Readonly<Record<string, Result>>> = { ...earlier };
  for (const [program, flavours] of Object.entries(now)) {
    merged[program] = { ...earlier[program], ...flavours };
  }
  return merged;
}

export function writeResults(path: string, now: Results): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify(mergeResults(readResults(path), now), undefined, 1)}\n`);
}
