import { type ChildProcess, spawn } from 'node:child_process';
import { appendFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from './build.js';
import { identify, isAlive, until } from './processes.js';
import type { Trial } from './trial.js';

const restoreTimeoutMs = 20_000;
const endTimeoutMs = 10_000;
/** From the moment the program's own executable shows to the moment all its threads run. */
const settleMs = 200;

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A dump binary that was executed: it is the restored process's proxy. */
export class DirectRestore implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #end: Promise<Ended>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#end = new Promise((resolve) => {
      child.on('exit', (code, signal) => resolve({ code, signal }));
      child.on('error', () => resolve({ code: 127, signal: null }));
    });
  }

  /** Executes DIR/PID.dump of the trial's root, and waits until the program itself runs again.
   *  @param original  what /proc/PID/exe said before the dump */
  static async start(trial: Trial, original: string): Promise<DirectRestore> {
    const dump = dumpOf(trial);
    appendFileSync(trial.log, `${dump} &\n`);
    const launcher = await build('support/launch');
    // The proxy bears the trial's mark like everything else that belongs to it.
    const child = spawn(launcher, [dump], {
      env: { FERRY_TRIAL: trial.directory, PATH: process.env.PATH ?? '' },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const restore = new DirectRestore(child);
    await until(`${trial.pid} to run ${original} again`, restoreTimeoutMs, () => {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Error(`The dump binary ended: ${child.exitCode ?? child.signalCode}`);
      }
      return exeOf(trial.pid) === original;
    });
    await sleep(settleMs);
    return restore;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Sends a signal to the proxy, for the restored process. */
  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Waits for the proxy's own end. */
  async ended(): Promise<Ended> {
    const late = sleep(endTimeoutMs, undefined, { ref: false }).then(() => {
      throw new Error(`The proxy ${this.pid} did not end within ${endTimeoutMs} ms`);
    });
    return Promise.race([this.#end, late]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const identity = identify(this.pid);
    if (identity !== undefined && isAlive(identity)) this.#child.kill('SIGKILL');
    await this.#end;
  }
}

export function dumpOf(trial: Trial, pid = trial.pid): string {
  return join(trial.image, `${pid}.dump`);
}

export function exeOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return undefined;
  }
}
