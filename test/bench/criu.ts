import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Finished, run, sleep, tryRun, until } from '../support/shell.js';
import { figuresOf, type LiveRow } from './figures.js';

/** A program as CRIU gets it: on its own, without container and clients. */
export interface PlainProgram {
  readonly argv: readonly string[];
  readonly cwd: string;
  /** Called when it runs, before it is dumped for the first time. */
  readonly prepare?: () => Promise<void>;
}

const SETTLE_MS = 500;

/** Why `criu` is no part of the comparison; undefined when it is installed and works. */
async function whyNot(): Promise<string | undefined> {
  const checked = await tryRun('criu', ['check']).catch((error: unknown): Finished => {
    const missing = (error as { message?: string }).message?.includes('ENOENT') === true;
    const stderr = missing ? 'it is not installed' : String(error);
    return { status: 1, stdout: '', stderr };
  });
  if (checked.status === 0) return undefined;
  return checked.stderr.trim().split('\n').at(-1) ?? 'it does not work';
}

/** Dump and restore of the same program by CRIU, onto the disk and back on one host: nothing of it crosses a wire.
 *  @returns no row where CRIU is not installed or does not work */
export async function criuRows(
  name: string,
  program: PlainProgram,
  runs: number,
  say: (line: string) => void,
): Promise<LiveRow[]> {
  const reason = await whyNot();
  if (reason !== undefined) {
    say(`no row of criu: ${reason}`);
    return [];
  }
  const folder = join(program.cwd, 'criu');
  const totals: number[] = [];
  let pid = await start(program);
  try {
    for (let i = 0; i < runs; i += 1) {
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder);
      const from = performance.now();
      await run('criu', ['dump', '-t', String(pid), '-D', folder, '-j', '--tcp-established']);
      const dumped = performance.now();
      const pidfile = join(folder, 'pid');
      const back = ['-j', '--tcp-established', '-d', '--pidfile', pidfile];
      await run('criu', ['restore', '-D', folder, ...back]);
      totals.push(performance.now() - from);
      pid = Number(readFileSync(pidfile, 'utf8'));
      const [dump, all] = [dumped - from, totals.at(-1)!];
      say(
        `${i + 1}/${runs} criu: dump ${dump.toFixed(0)} ms, restore ${(all - dump).toFixed(0)} ms`,
      );
      await sleep(SETTLE_MS);
    }
  } finally {
    // The whole session of the program, which it leads.
    await tryRun('pkill', ['-KILL', '-s', String(pid)]);
    rmSync(folder, { recursive: true, force: true });
  }
  const [freeze, none] = [figuresOf(totals), figuresOf([])];
  return [
    {
      ...{ case: name, mode: 'criu dump + restore', runs, errors: 0 },
      ...{ freeze_ms: freeze, client_stall_ms: none, total_ms: freeze },
      ...{ raw_mib_s: Number.NaN, wire_mib_s: Number.NaN },
    },
  ];
}

/** In a session of its own, with no descriptor of ours; gives its PID. */
async function start({ argv, cwd, prepare }: PlainProgram): Promise<number> {
  const log = join(cwd, 'criu-program.log');
  const pidfile = join(cwd, 'criu-program.pid');
  writeFileSync(pidfile, '');
  const close =
    'for f in $(ls /proc/self/fd); do [ $f -gt 2 ] && eval "exec $f>&-" 2>/dev/null; done';
  const script = `${close}; echo $$ > ${pidfile}; exec "$@"`;
  const output = openSync(log, 'w');
  const child = spawn('/bin/bash', ['-c', script, 'program', ...argv], {
    ...{ cwd, detached: true, stdio: ['ignore', output, output] },
  });
  child.unref();
  const pid = await until('the program', () =>
    existsSync(pidfile) ? Number(readFileSync(pidfile, 'utf8')) || undefined : undefined,
  );
  await sleep(SETTLE_MS);
  await prepare?.();
  return pid;
}
