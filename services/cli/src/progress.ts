import type { Progress } from '@ferry/api';
import { bytesText } from './output.js';

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
 *  terminal. */
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
  const { phase, message, bytesRawDone, bytesRawTotal, bytesRawPerSecond, round } = progress;
  const parts = [round > 0 ? `${phase} (round ${round})` : phase];
  if (message !== '' && message !== phase) parts.push(printable(message));
  if (bytesRawTotal > 0n) {
    const rate = bytesRawPerSecond > 0 ? `, ${bytesText(bytesRawPerSecond)}/s` : '';
    parts.push(`${bytesText(bytesRawDone)} of ${bytesText(bytesRawTotal)}${rate}`);
  }
  return parts.join('  ');
}

/** Text of another machine may hold anything; a terminal must not obey it. */
function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '?');
}

function clamp(fraction: number): number {
  return Math.min(1, Math.max(0, fraction || 0));
}
