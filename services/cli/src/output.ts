import { toPlainJson } from '@ferry/api';

/** One JSON value on stdout: names in snake_case, 64-bit numbers exact. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(toPlainJson(value))}\n`);
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Rows in columns as wide as their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return [head, ...rows].map(line).join('\n');
}

/** What a finished operation warns of, a line each. */
export function warningLines(warnings: readonly string[]): string[] {
  return warnings.map((warning) => `Warning: ${warning}`);
}

/** 1536 → `1.5 KiB`. */
export function bytesText(bytes: bigint | number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let [value, unit] = [Number(bytes), 0];
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** 1234 → `1.23 s`, 61000 → `1m01s`. */
export function durationText(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(2)} s`;
  const seconds = Math.round(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  const two = (value: number) => String(value).padStart(2, '0');
  return hours > 0 ? `${hours}h${two(minutes)}m` : `${minutes}m${two(seconds % 60)}s`;
}

/** Unix milliseconds → how long ago, roughly; 0 → `-`. */
export function agoText(atMs: bigint, nowMs: number): string {
  if (atMs === 0n) return '-';
  const seconds = Math.max(0, Math.round((nowMs - Number(atMs)) / 1000));
  if (seconds < 90) return `${seconds}s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)}m`;
  return seconds < 48 * 3600
    ? `${Math.round(seconds / 3600)}h`
    : `${Math.round(seconds / 86_400)}d`;
}

/** Unix milliseconds → local time; 0 → `-`. */
export function timeText(atMs: bigint): string {
  if (atMs === 0n) return '-';
  const date = new Date(Number(atMs));
  const two = (value: number) => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
