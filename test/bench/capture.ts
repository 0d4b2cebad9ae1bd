import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { childrenOf, threadsOf } from '@ferry/linux';
import { Tracer } from '../../packages/migration/src/tracer.js';
import type { TracerRequest } from '../../packages/migration/src/tracer-protocol.js';
import { makeRunFolder, removeRun } from '../support/run-folder.js';
import { until } from '../support/shell.js';
import { figuresOf } from './figures.js';
import { compile } from './memory-program.js';

const TRACER = fileURLToPath(new URL('../../dist/ferry-tracer.mjs', import.meta.url));
/** Captures before those that count: V8 compiles what they run. */
const WARM_UP = 30;
/** As an agent has its tracers rehearse. */
const REHEARSALS = 30;
/** Tracers that capture once. */
const FRESH = 10;
/** What is captured: argv of the program, and how many clients it has. */
const SUBJECTS: Readonly<Record<string, { argv: (many: string) => string[]; clients: number }>> = {
  'shell loop': { argv: () => ['sh', '-c', 'while :; do sleep 1; done'], clients: 0 },
  'Redis, 50 connections': {
    argv: () => ['redis-server', '--port', '6379', '--save', ''],
    clients: 50,
  },
  '100 processes': { argv: (many) => [many, 'processes', '100'], clients: 0 },
  '1,000 threads': { argv: (many) => [many, 'threads', '1000'], clients: 0 },
  '1,000 connections': { argv: (many) => [many, 'connections', '1000'], clients: 1000 },
};

export interface CaptureRow {
  readonly case: string;
  readonly runs: number;
  /** Medians of the tracer's CPU time: for stopping every thread, and for the capture with its way to the agent. */
  readonly stop_cpu_ms: number;
  readonly capture_cpu_ms: number;
  /** The time that passed in a capture. */
  readonly capture_least_ms: number;
  readonly capture_median_ms: number;
  /** The same of the only capture of a tracer that has but rehearsed, as in a migration. */
  readonly first_stop_cpu_ms: number;
  readonly first_capture_cpu_ms: number;
  readonly first_capture_least_ms: number;
}

/** What a capture of a tree in namespaces of its own costs a tracer, many times. CPU time changes less than the time that
 *  passes when others use the machine. */
export async function capture(
  { runs, only }: { runs: number; only: string | undefined },
  say: (line: string) => void,
): Promise<CaptureRow[]> {
  const folder = await makeRunFolder();
  try {
    const program = join(folder.path, 'many');
    await compile('many', program);
    const rows: CaptureRow[] = [];
    for (const [name, { argv, clients }] of Object.entries(SUBJECTS)) {
      if (only !== undefined && !name.includes(only)) continue;
      say(name);
      const output = join(folder.path, `${rows.length}.out`);
      await using subject = await start(argv(program), { output, clients, cwd: folder.path });
      rows.push(await measure(name, subject.hostPid, runs));
    }
    return rows;
  } finally {
    await removeRun(folder.id);
  }
}

/** Starts a program as the init of namespaces of its own, and clients of it in its network. */
async function start(
  argv: readonly string[],
  { output, clients, cwd }: { output: string; clients: number; cwd: string },
): Promise<AsyncDisposable & { hostPid: number }> {
  const log = openSync(output, 'w');
  const children: ChildProcess[] = [];
  const run = (command: string, args: readonly string[]): ChildProcess => {
    const child = spawn(command, args, { stdio: ['ignore', log, log], cwd });
    children.push(child);
    return child;
  };
  const stop = async (): Promise<void> => {
    for (const child of children.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  };
  try {
    // Nothing that a shell or an editor above left open is the program's.
    const close = 'for fd in $(ls /proc/self/fd); do [ $fd -le 2 ] || eval "exec $fd>&-"; done';
    const up = `ip link set lo up; ${close}; exec "$@"`;
    const outer = run('unshare', [
      ...['--net', '--pid', '--fork', '--kill-child', '--mount-proc', '--ipc', '--uts', '--cgroup'],
      // As in a container.
      ...['--', 'setpriv', '--no-new-privs', 'setsid', 'bash', '-c', up, 'bash', ...argv],
    ]);
    const hostPid = await until('the program', () => {
      const [child] = childrenOf(outer.pid!, threadsOf(outer.pid!));
      if (child === undefined) return undefined;
      return readFileSync(`/proc/${child}/cmdline`, 'utf8').startsWith(argv[0]!)
        ? child
        : undefined;
    });
    const port = argv[0] === 'redis-server' ? 6379 : undefined;
    if (clients > 0) {
      const text = () => readFileSync(output, 'utf8');
      await until('its port', () => (port === undefined ? /^port (\d+)$/m.exec(text())?.[1] : 'x'));
      const to = port ?? Number(/^port (\d+)$/m.exec(text())?.[1]);
      const script = `const n=require('net');let left=${clients};const go=(i)=>{if(i===0)return console.log('connected');const s=n.connect(${to},'127.0.0.1');s.on('connect',()=>go(i-1));s.on('error',()=>setTimeout(go,50,i))};go(left)`;
      run('nsenter', ['-t', String(hostPid), '-n', process.execPath, '-e', script]);
      await until('the clients', () => (/^connected$/m.test(text()) ? true : undefined));
    }
    if (argv[0] !== 'redis-server' && argv[0] !== 'sh') {
      await until('the program', () =>
        /^ready$/m.test(readFileSync(output, 'utf8')) ? true : undefined,
      );
    }
    return { hostPid, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** One row: hot in a tracer that has captured it often, and the first time in fresh ones. */
async function measure(name: string, hostPid: number, runs: number): Promise<CaptureRow> {
  const hot = await measured(hostPid, { tracers: 1, captures: WARM_UP + runs });
  const first = await measured(hostPid, { tracers: FRESH, captures: 1 });
  const counted = hot.slice(WARM_UP);
  const median = (all: readonly Measured[], part: keyof Measured) =>
    figuresOf(all.map((one) => one[part])).median;
  return {
    case: name,
    runs,
    stop_cpu_ms: median(counted, 'stopCpuMs'),
    capture_cpu_ms: median(counted, 'captureCpuMs'),
    capture_least_ms: Math.min(...counted.map((one) => one.captureMs)),
    capture_median_ms: median(counted, 'captureMs'),
    first_stop_cpu_ms: median(first, 'stopCpuMs'),
    first_capture_cpu_ms: median(first, 'captureCpuMs'),
    first_capture_least_ms: Math.min(...first.map((one) => one.captureMs)),
  };
}

interface Measured {
  readonly stopCpuMs: number;
  readonly captureCpuMs: number;
  readonly captureMs: number;
}

/** Captures with so many tracers, one after the other, each so many times. */
async function measured(
  hostPid: number,
  { tracers, captures }: { tracers: number; captures: number },
): Promise<Measured[]> {
  const found: Measured[] = [];
  for (let i = 0; i < tracers; i++) {
    const tracer = Tracer.spawn({
      execArgv: (process.env.TRACER_ARGS ?? '').split(' ').filter((x) => x),
      script: TRACER,
    });
    try {
      for (let rehearsal = 0; rehearsal < REHEARSALS; rehearsal++)
        await tracer.ask({ method: 'rehearse' });
      const nothing = { externalInodes: [], givenMounts: undefined, givenSettings: undefined };
      await tracer.ask({ method: 'open', hostPid, ...nothing } as unknown as TracerRequest);
      await tracer.ask({ method: 'scan' });
      for (let capture = 0; capture < captures; capture++) found.push(await captureOnce(tracer));
    } finally {
      await tracer.close();
    }
  }
  return found;
}

/** As a migration does: two rounds, then the freeze. */
async function captureOnce(tracer: Tracer): Promise<Measured> {
  await tracer.ask({ method: 'track' });
  for (let round = 0; round < 2; round++) await tracer.ask({ method: 'round' });
  const before = cpuMs(tracer);
  await tracer.ask({ method: 'freeze' });
  const stopped = cpuMs(tracer);
  const at = performance.now();
  await tracer.ask({ method: 'capture', later: false });
  const captureMs = performance.now() - at;
  const captured = cpuMs(tracer);
  await tracer.ask({ method: 'thaw' });
  return { stopCpuMs: stopped - before, captureCpuMs: captured - stopped, captureMs };
}

/** Of all threads of a tracer: proc_pid_schedstat, in nanoseconds. */
function cpuMs({ pid }: Tracer): number {
  const tids = threadsOf(pid!);
  const spent = (tid: number) =>
    Number(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8').split(' ')[0]);
  return tids.reduce((sum, tid) => sum + spent(tid), 0) / 1e6;
}
