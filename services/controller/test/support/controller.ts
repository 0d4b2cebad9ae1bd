import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { type ClusterClient, connectCluster, type Security } from '@ferry/api';
import { bundled } from './bundle.js';
import { end } from './redis.js';

let bundle: Promise<string> | undefined;

/** A controller as a program of its own. */
export interface TestController {
  readonly address: string;
  readonly pid: number;
  readonly client: ClusterClient;
  /** Log lines so far. */
  readonly log: readonly string[];
  /** SIGKILL unless said otherwise. @returns its exit status */
  end(signal?: NodeJS.Signals): Promise<number | null>;
}

export async function startControllerProgram(
  redis: string,
  options: { listen?: string; args?: readonly string[]; security?: Security; env?: object } = {},
): Promise<TestController> {
  const listen = options.listen ?? '127.0.0.1:0';
  const quick = ['--job-lock-ms', '1000', '--agent-silence-ms', '1500', '--down-after-ms', '2500'];
  const args = ['--listen', listen, '--redis', redis, ...quick, ...(options.args ?? [])];
  bundle ??= bundled('services/controller');
  const child = spawn(process.execPath, [await bundle, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...options.env },
  });
  const log: string[] = [];
  const address = await listening(child, log);
  const client = connectCluster(
    address,
    options.security === undefined ? {} : { security: options.security },
  );
  return {
    address,
    pid: child.pid ?? 0,
    client,
    log,
    async end(signal = 'SIGKILL') {
      client.close();
      await end(child, signal);
      return child.exitCode;
    },
  };
}

async function listening(child: ChildProcess, log: string[]): Promise<string> {
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`The controller did not start:\n${log.join('\n')}`));
    }, 60_000);
    createInterface({ input: child.stderr! }).on('line', (line) => {
      log.push(line);
      if (!line.includes('"msg":"listening"')) return;
      clearTimeout(timer);
      resolve(JSON.parse(line).address);
    });
    child.once('exit', (code) => {
      clearTimeout(timer);
      reject(new Error(`The controller ended with ${code}:\n${log.join('\n')}`));
    });
  });
}
