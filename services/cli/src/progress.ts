import type { Progress } from '@ferry/api';
import { bytesText, durationText } from './output.js';

/** Where progress goes: a stream and whether it is a terminal. */
export interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const barWidth = 24;
/** Plain lines come with each phase, and within one at each such part. */
const plainStep = 0.25;

/** Shows one operation's progress: a bar that redraws itself on a terminal, a few plain lines
 *  elsewhere. */
export class ProgressView {
  readonly #screen: Screen;
  #drawn = false;
  #lastPlain = { phase: '', fraction: -1 };

  constructor(screen: Screen) {
    this.#screen = screen;
  }

  show(progress: Progress): void {
    if (this.#screen.isTTY) {
      const text = barText(progress, this.#screen.columns ?? 80);
      this.#screen.write(`\r\x1b[K${text}`);
      this.#drawn = true;
      return;
    }
    const { phase, fraction } = progress;
    const last = this.#lastPlain;
    if (phase === last.phase && fraction < last.fraction + plainStep) return;
    this.#lastPlain = { phase, fraction };
    this.#screen.write(`${plainText(progress)}\n`);
  }

  /** Takes the bar away. */
  close(): void {
    if (this.#drawn) this.#screen.write('\r\x1b[K');
    this.#drawn = false;
  }
}

/** `[########................]  34 %  pages  120 MiB of 1.0 GiB, 410 MiB/s`, no wider than the
 *  terminal; in rounds `pages (round 3)  1204 pages left, 410 MiB/s  changes 9.0 MiB/s, would stand 31 ms`. */
export function barText(progress: Progress, columns: number): string {
  const filled = Math.round(clamp(progress.fraction) * barWidth);
  const bar = `[${'#'.repeat(filled)}${'.'.repeat(barWidth - filled)}]`;
  return `${bar} ${percent(progress)}  ${details(progress)}`.slice(0, Math.max(20, columns - 1));
}

export function plainText(progress: Progress): string {
  return `${percent(progress)}  ${details(progress)}`;
}

function percent({ fraction }: Progress): string {
  return `${Math.floor(clamp(fraction) * 100)} %`.padStart(5);
}

function details(progress: Progress): string {
  const { phase, message, round } = progress;
  const parts = [round > 0 ? `${phase} (round ${round})` : phase];
  const isMemory = phase === 'pages';
  if (isMemory) parts.push(memoryText(progress));
  else if (message !== '' && message !== phase) parts.push(printable(message));
  // After one round nobody knows yet how fast memory changes.
  if (isMemory && round > 2) {
    const { dirtyBytesPerSecond, predictedDowntimeMs } = progress;
    const rate = bytesText(Math.round(dirtyBytesPerSecond));
    parts.push(`changes ${rate}/s, would stand ${durationText(predictedDowntimeMs)}`);
  }
  return parts.join('  ');
}

/** What is left of it, in pages while rounds are made, and how fast it goes. */
function memoryText({ bytesRawDone, bytesRawTotal, bytesRawPerSecond, round }: Progress): string {
  const rate = bytesRawPerSecond > 0 ? `, ${bytesText(bytesRawPerSecond)}/s` : '';
  if (round === 0) return `${bytesText(bytesRawDone)} of ${bytesText(bytesRawTotal)}${rate}`;
  const left = bytesRawTotal > bytesRawDone ? (bytesRawTotal - bytesRawDone) / 4096n : 0n;
  return `${left} pages left${rate}`;
}

/** Text of another machine may hold anything; a terminal must not obey it. */
function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '?');
}

function clamp(fraction: number): number {
  return Math.min(1, Math.max(0, fraction || 0));
}
