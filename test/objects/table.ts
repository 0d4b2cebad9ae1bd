/** One self-checking program and how it is tried. */
export interface ObjectProgram {
  readonly name: string;
  /** The C file without its suffix; the name by default. */
  readonly source?: string;
  readonly args?: readonly string[];
  /** Time the program needs after READY and after a restore until it waits; 50 by default. */
  readonly settleMs?: number;
  /** Runs with nothing beside it: it needs the memory or the processors. */
  readonly isAlone?: boolean;
  /** Also executed as a bare dump binary, without the command. */
  readonly isDirect?: boolean;
  /** Why Ferry need not carry it yet: then it must be carried faithfully or refused. */
  readonly later?: string;
  /** What the refusal must say; the pid of one of its processes by default. */
  readonly blocker?: RegExp;
  /** Lines of `differences` that move by themselves in this program. */
  readonly volatile?: readonly RegExp[];
}

const running = /^\d+ State:/;

export const programs: readonly ObjectProgram[] = [
  { name: 'counting', isDirect: true, volatile: [running, /^\d+ fdinfo 3:/] },
  { name: 'registers-general', source: 'registers', args: ['general'], volatile: [running] },
  { name: 'registers-sse', source: 'registers', args: ['sse'], volatile: [running] },
  { name: 'registers-avx', source: 'registers', args: ['avx'], volatile: [running] },
  { name: 'registers-avx512', source: 'registers', args: ['avx512'], volatile: [running] },
  { name: 'registers-x87', source: 'registers', args: ['x87'], volatile: [running] },
  { name: 'fork-tree', isDirect: true },
  { name: 'threads' },
  { name: 'threads-many' },
  { name: 'signal-dispositions' },
  { name: 'signal-pending' },
  { name: 'memory-private', isDirect: true },
  { name: 'file-position' },
  { name: 'pipe-content' },
];
