import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** A Redis of one's own on a unix socket in a folder of its own; both go away with `stop`. */
export interface TestRedis {
  /** For --redis. */
  readonly url: string;
  readonly folder: string;
  /** Ends it as a crash does, and starts it again with its data. */
  restart(): Promise<void>;
  /** Has it answer nobody for so long. */
  hang(ms: number): Promise<void>;
  stop(): Promise<void>;
}

export async function startRedis(): Promise<TestRedis> {
  const folder = await mkdtemp(join(tmpdir(), 'ferry-control-'));
  const socket = join(folder, 'r.sock');
  let child = await launch(folder, socket);
  return {
    url: `unix://${socket}`,
    folder,
    async restart() {
      await end(child, 'SIGKILL');
      await rm(socket, { force: true });
      child = await launch(folder, socket);
    },
    async hang(ms) {
      child.kill('SIGSTOP');
      await sleep(ms);
      child.kill('SIGCONT');
    },
    async stop() {
      await end(child, 'SIGKILL');
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function launch(folder: string, socket: string): Promise<ChildProcess> {
  const persistence = ['--save', '', '--appendonly', 'yes', '--appendfsync', 'always'];
  const where = ['--port', '0', '--unixsocket', socket, '--dir', folder];
  const child = spawn('redis-server', [...where, ...persistence], { stdio: 'ignore' });
  for (let wait = 0; wait < 500; wait += 1) {
    if (existsSync(socket)) return child;
    if (child.exitCode !== null) break;
    await sleep(10);
  }
  child.kill('SIGKILL');
  throw new Error(`redis-server did not start (exit status ${child.exitCode})`);
}

/** Sends a signal to a program of ours and waits for its end. */
export async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  await exited;
}
