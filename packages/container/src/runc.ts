import { existsSync } from 'node:fs';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import { z } from 'zod';
import { type CommandResult, runCommand } from './run-command.js';

export type RuntimeStatus = 'creating' | 'created' | 'running' | 'paused' | 'stopped';

const stateSchema = z.object({
  id: z.string(),
  pid: z.number(),
  status: z.enum(['creating', 'created', 'running', 'paused', 'stopped']),
  bundle: z.string(),
});
export type RuntimeState = z.output<typeof stateSchema>;

export interface ExecOptions {
  readonly signal?: AbortSignal | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly cwd?: string | undefined;
  readonly user?: { readonly uid: number; readonly gid: number } | undefined;
  /** Written to its stdin, which is empty otherwise. */
  readonly input?: string | Buffer | undefined;
}

interface Options {
  readonly signal?: AbortSignal | undefined;
}

/** What of runc's record of a container comes from its configuration and must be the container's
 *  own again after a restore: it decides what `runc exec` gives. Names are libcontainer's
 *  (configs/config.go). */
const OWN_FIELDS = ['capabilities', 'seccomp', 'no_new_privileges', 'rlimits'] as const;
export type RuntimeOwnState = Partial<Record<(typeof OWN_FIELDS)[number], unknown>>;

/** So many containers may go while all are listed. */
const LIST_ATTEMPTS = 10;

/** runc (or another program with its command line), with a state folder of its own. `create` is not
 *  here: the shim runs it, see shim.ts. */
export class Runc {
  readonly program: string;
  readonly root: string;

  constructor(options: { program: string; root: string }) {
    this.program = options.program;
    this.root = options.root;
  }

  /** The command line that creates a container from a bundle. */
  createCommand(options: {
    id: string;
    bundle: string;
    pidFile: string;
    logFile: string;
    preserveFds: number;
  }): string[] {
    const { id, bundle, pidFile, logFile, preserveFds } = options;
    return [
      ...[this.program, '--root', this.root, '--log', logFile, '--log-format', 'json', 'create'],
      ...['--bundle', bundle, '--pid-file', pidFile, '--no-new-keyring'],
      ...['--preserve-fds', String(preserveFds), id],
    ];
  }

  async version(): Promise<string> {
    const text = (await runCommand(this.program, ['--version'])).stdout.toString('utf8');
    return /version (\S+)/.exec(text)?.[1] ?? text.trim();
  }

  async start(id: string, options: Options = {}): Promise<void> {
    await this.#must('start', [id], options);
  }

  /** Undefined when runc knows no such container. */
  async state(id: string, options: Options = {}): Promise<RuntimeState | undefined> {
    const result = await this.#run(['state', id], options);
    if (result.status === 0) return stateSchema.parse(JSON.parse(result.stdout.toString('utf8')));
    if (doesNotExist(result)) return undefined;
    throw this.#failed('state', id, result);
  }

  async list(options: Options = {}): Promise<RuntimeState[]> {
    const list = async () => await this.#run(['list', '--format', 'json'], options);
    let result = await list();
    for (let i = 1; i < LIST_ATTEMPTS && wentMeanwhile(result); i += 1) result = await list();
    if (result.status !== 0) throw this.#failed('list', '', result);
    const parsed: unknown = JSON.parse(result.stdout.toString('utf8'));
    return z.array(stateSchema).nullable().parse(parsed) ?? [];
  }

  /** Sends a signal to the first process, or to all. A container that has ended is no error. */
  async kill(
    id: string,
    signalName: string,
    options: Options & { all?: true } = {},
  ): Promise<void> {
    const args = ['kill', ...(options.all ? ['--all'] : []), id, signalName];
    const result = await this.#run(args, options);
    if (result.status === 0 || doesNotExist(result)) return;
    if (/not running|already finished|no such process/i.test(result.stderr.toString('utf8')))
      return;
    throw this.#failed('kill', id, result);
  }

  /** Removes what runc holds of a container, killing it if need be. One that does not exist is no
   *  error. */
  async delete(id: string, options: Options = {}): Promise<void> {
    if (!existsSync(join(this.root, id))) return;
    const result = await this.#run(['delete', '--force', id], options);
    if (result.status !== 0 && !doesNotExist(result)) throw this.#failed('delete', id, result);
  }

  /** Runs a program in the container to its end, whatever its status. */
  async exec(
    id: string,
    args: readonly string[],
    options: ExecOptions = {},
  ): Promise<CommandResult> {
    const { env = {}, cwd, user, input, signal } = options;
    const flags = Object.entries(env).flatMap(([key, value]) => ['--env', `${key}=${value}`]);
    if (cwd !== undefined) flags.push('--cwd', cwd);
    if (user !== undefined) flags.push('--user', `${user.uid}:${user.gid}`);
    return await runCommand(this.program, ['--root', this.root, 'exec', ...flags, id, ...args], {
      signal,
      input,
    });
  }

  /** The part of runc's record that belongs to the container, not to this host. */
  async ownState(id: string): Promise<RuntimeOwnState> {
    const { config } = await this.#record(id);
    return Object.fromEntries(
      OWN_FIELDS.flatMap((field) => (config[field] === undefined ? [] : [[field, config[field]]])),
    );
  }

  /** Puts that part back after a restore, whose first process was created with more. */
  async setOwnState(id: string, own: RuntimeOwnState): Promise<void> {
    const record = await this.#record(id);
    for (const field of OWN_FIELDS) record.config[field] = own[field] ?? null;
    const path = this.#recordPath(id);
    await writeFile(`${path}.ferry`, JSON.stringify(record), { mode: 0o600 });
    await rename(`${path}.ferry`, path);
  }

  async #record(id: string) {
    const shape = z.looseObject({ config: z.record(z.string(), z.unknown()) });
    return shape.parse(JSON.parse(await readFile(this.#recordPath(id), 'utf8')));
  }

  #recordPath(id: string): string {
    return join(this.root, id, 'state.json');
  }

  async #must(verb: string, args: string[], options: Options): Promise<void> {
    const result = await this.#run([verb, ...args], options);
    if (result.status !== 0) throw this.#failed(verb, args.join(' '), result);
  }

  async #run(args: readonly string[], options: Options): Promise<CommandResult> {
    return await runCommand(this.program, ['--root', this.root, ...args], {
      signal: options.signal,
    });
  }

  #failed(verb: string, id: string, result: CommandResult): FerryError {
    return new FerryError(
      'container.runtime',
      `${this.program} ${verb} ${id} failed: ${runtimeText(result.stderr.toString('utf8'))}`,
    );
  }
}

/** runc reads the names of all containers, then looks at each, and gives up where one has gone (list.go). */
function wentMeanwhile({ status, stderr }: CommandResult): boolean {
  return status !== 0 && /no such file or directory/i.test(stderr.toString('utf8'));
}

function doesNotExist(result: CommandResult): boolean {
  return /container does not exist/i.test(result.stderr.toString('utf8'));
}

/** The sentence inside runc's log lines: `time="…" level=error msg="…"`, or JSON with a `msg`. */
export function runtimeText(text: string): string {
  const found: string[] = [];
  for (const line of text.split('\n').filter((part) => part.trim() !== '')) {
    const quoted =
      /msg="((?:[^"\\]|\\.)*)"/.exec(line)?.[1] ?? /"msg":"((?:[^"\\]|\\.)*)"/.exec(line)?.[1];
    const message = (quoted ?? line).replaceAll('\\"', '"').trim();
    if (!found.includes(message)) found.push(message);
  }
  return found.length === 0 ? 'it gave no reason' : found.join('; ');
}
