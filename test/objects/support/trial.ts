import { type ChildProcess, spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { removeOnSignal } from '../../support/on-signal.js';
import { disown, own, removeStaleRuns } from '../../support/run-folder.js';
import { build } from './build.js';
import {
  type Identity,
  identify,
  isAlive,
  killExactly,
  marked,
  treeOf,
  until,
} from './processes.js';

const readyTimeoutMs = 20_000;
const verdictTimeoutMs = 30_000;
const goneTimeoutMs = 5_000;

/** What runs before this one have left that were killed. */
let staleRemoved: Promise<unknown> | undefined;

/** One program in one directory of its own, from its start to the removal of every trace of it. */
export class Trial implements AsyncDisposable {
  readonly directory: string;
  /** Commands and their output, for the person who repeats a failure. */
  readonly log: string;
  readonly image: string;
  /** The root's pid; known after `start`. */
  pid = 0;
  #child: ChildProcess | undefined;
  #kept = false;
  readonly #unguard: () => void;

  constructor(title: string) {
    this.directory = mkdtempSync(join(tmpdir(), `ferry-trial-${title.replaceAll(/\W+/g, '-')}-`));
    chmodSync(this.directory, 0o777); // some programs give up being root
    this.log = join(this.directory, 'commands.log');
    this.image = join(this.directory, 'image');
    writeFileSync(this.log, '');
    own(this.#id);
    this.#unguard = removeOnSignal(this.#id);
  }

  get #id(): string {
    return basename(this.directory);
  }

  /** Starts the program as a child of this process and leader of a session, without a terminal;
   *  its output goes to `output.log`. Returns when it says that it is ready. */
  async start(command: readonly string[], options: StartOptions = {}): Promise<void> {
    staleRemoved ??= removeStaleRuns();
    await staleRemoved;
    const { env = {}, settleMs = 50, isReady } = options;
    const [program = '', ...args] = command;
    const variables = { ...env, FERRY_TRIAL: this.directory };
    const assignments = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
    appendFileSync(this.log, `env ${assignments.join(' ')} setsid ${command.join(' ')} &\n`);
    const output = openSync(join(this.directory, 'output.log'), 'a');
    const launcher = await build('support/launch');
    this.#child = spawn(launcher, [program, ...args], {
      cwd: this.directory,
      detached: true,
      env: { PATH: process.env.PATH ?? '', LANG: 'C', ...variables },
      stdio: ['ignore', output, output],
    });
    this.#child.on('error', () => {});
    closeSync(output);
    const child = this.#child;
    await until(`${program} to be ready`, readyTimeoutMs, () => {
      if (isReady === undefined && (this.has('ready') || this.has('result'))) return true;
      if (isReady?.() ?? false) return true;
      if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
        return false;
      }
      throw new Error(`${program} ended early: ${child.exitCode ?? child.signalCode}`);
    });
    this.pid = child.pid ?? 0;
    await sleep(settleMs);
  }

  has(name: string): boolean {
    return existsSync(join(this.directory, name));
  }

  read(name: string): string {
    return this.has(name) ? readFileSync(join(this.directory, name), 'utf8') : '';
  }

  note(line: string): void {
    appendFileSync(this.log, `# ${line}\n`);
  }

  /** The identities of the tree below the root, the root first. */
  tree(): Identity[] {
    return treeOf(this.pid).flatMap((pid) => identify(pid) ?? []);
  }

  /** Sends "check now" to `pid` and waits for the verdict.
   *  @throws unless it is PASS; a SKIP is returned as the text that follows it */
  async verdict(pid = this.pid, signal: NodeJS.Signals = 'SIGUSR1'): Promise<string | undefined> {
    const root = identify(this.pid);
    if (!this.has('result')) {
      appendFileSync(this.log, `kill -${signal.slice(3)} ${pid}\n`);
      process.kill(pid, signal);
    }
    await until('a verdict', verdictTimeoutMs, () => {
      return this.has('result') || this.has('failures') || root === undefined || !isAlive(root);
    });
    if (!this.has('result')) await sleep(100);
    const result = this.read('result').trim();
    if (result.startsWith('SKIP ')) return result.slice(5);
    if (result !== 'PASS') {
      throw new Error(`${result || 'No verdict: the root is gone'}\n${this.read('failures')}`);
    }
    return undefined;
  }

  /** Waits until none of these runs any more.
   *  @throws naming those that do */
  async gone(processes: readonly Identity[], why: string): Promise<void> {
    const living = () => processes.filter(isAlive).map((each) => each.pid);
    await until(`the end of ${why}`, goneTimeoutMs, () => living().length === 0).catch((error) => {
      throw new Error(`${error.message}: still there: ${living().join(', ')}`);
    });
    // Node reaps its own child in its own time; until then the pid is taken.
    const child = this.#child;
    if (child?.pid !== undefined && processes.some((each) => each.pid === child.pid)) {
      await until('the root to be reaped', goneTimeoutMs, () => {
        return child.exitCode !== null || child.signalCode !== null;
      });
    }
  }

  /** Waits until nothing that belongs to this trial is left running.
   *  @throws naming what is */
  async nothingLeft(): Promise<void> {
    const left = () => marked(this.directory);
    await until('everything to end', goneTimeoutMs, () => left().length === 0).catch(() => {
      const shown = left().map(({ pid }) => `${pid} (${commandLine(pid)})`);
      throw new Error(`Left running at the end: ${shown.join(', ')}`);
    });
  }

  /** Keeps the directory and adds to the error where it is and how to repeat. */
  explain(error: unknown): Error {
    this.#kept = true;
    const message = error instanceof Error ? error.message : String(error);
    const parts = [message.trim(), `Directory kept: ${this.directory}`];
    const failures = this.read('failures').trim();
    if (failures !== '' && !message.includes(failures)) parts.push(`It said:\n${failures}`);
    const output = this.read('output.log').trim();
    if (output !== '') parts.push(`Its output:\n${output.slice(-2000)}`);
    parts.push(`Commands:\n${this.read('commands.log').trim().slice(-3000)}`);
    return new Error(parts.join('\n'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A killed parent may leave a child that had just been forked: look until none is found.
    for (let round = 0; round < 20; round++) {
      const left = [...marked(this.directory), ...this.tree()];
      if (left.every((each) => !isAlive(each))) break;
      killExactly(left);
      await sleep(20);
    }
    this.#unguard();
    disown(this.#id);
    if (!this.#kept) rmSync(this.directory, { recursive: true, force: true });
  }
}

export interface StartOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Time between readiness and the first look, so that waiting threads really wait. */
  readonly settleMs?: number;
  /** For programs that write no `ready` file. */
  readonly isReady?: () => boolean;
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return 'gone';
  }
}
