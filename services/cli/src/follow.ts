import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, type ClusterClient, fromErrorDetail, type Operation } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { print, printJson } from './output.js';
import { ProgressView, type Screen } from './progress.js';

/** A controller that restarts is waited for so long. */
const reconnectMs = 30_000;
const settled = new Set(['succeeded', 'failed', 'cancelled', 'in-doubt']);

/** Watches an operation to its end, through restarts of the controller, and shows its progress.
 *  @returns its last record, whatever its state */
export async function follow(
  client: ClusterClient,
  id: string,
  screen: Screen | undefined,
): Promise<Operation> {
  const view = screen === undefined ? undefined : new ProgressView(screen);
  const interrupted = () => {
    view?.close();
    process.stderr.write(
      `\nferry: operation ${id} goes on. Remedy: "ferry op watch ${id}" shows it, "ferry op cancel ${id}" ends it.\n`,
    );
    process.exit(130);
  };
  process.once('SIGINT', interrupted);
  let lostAt: number | undefined;
  try {
    for (;;) {
      try {
        for await (const { operation, progress } of client.watchOperation({ id })) {
          lostAt = undefined;
          if (progress !== undefined) view?.show(progress);
          if (operation !== undefined && settled.has(operation.state)) return operation;
        }
      } catch (error) {
        if (!connectionBroke(error)) throw error;
        lostAt ??= Date.now();
        if (Date.now() - lostAt > reconnectMs) throw error;
      }
      await sleep(300);
    }
  } finally {
    process.off('SIGINT', interrupted);
    view?.close();
  }
}

/** A controller that ends or restarts breaks the stream in one of these ways. */
function connectionBroke(error: unknown): boolean {
  const codes = ['rpc.unavailable', 'rpc.cancelled', 'rpc.failed', 'controller.unavailable'];
  return codes.includes(String((error as { code?: unknown }).code));
}

/** Where a command shows progress: stderr, unless its user wants JSON and nobody looks. */
export function progressScreen(options: { readonly json?: boolean }): Screen | undefined {
  return options.json && !process.stderr.isTTY ? undefined : process.stderr;
}

/** Follows an operation, prints how it ended, and throws when it did not succeed.
 *  @param success  one line for people */
export async function followToEnd(
  client: ClusterClient,
  begun: Operation,
  options: {
    readonly json?: boolean;
    readonly detach?: boolean;
    readonly success: (operation: Operation) => string;
  },
): Promise<Operation> {
  if (options.detach) {
    if (options.json) printJson({ operation: begun });
    else print(`Operation ${begun.id} has begun; "ferry op watch ${begun.id}" shows it.`);
    return begun;
  }
  const ended = await follow(client, begun.id, progressScreen(options));
  if (options.json) printJson({ operation: ended });
  else if (ended.state === 'succeeded') print(options.success(ended));
  throwUnlessSucceeded(ended);
  return ended;
}

export function throwUnlessSucceeded(operation: Operation): void {
  if (operation.state === 'succeeded') return;
  if (operation.error !== undefined) throw fromErrorDetail(operation.error);
  const message = `Operation ${operation.id} ended as ${operation.state}`;
  throw new ApiError({ code: `operation.${operation.state}`, message });
}

/** An error for a name that the user left out. */
export function missing(what: string, remedy: string): FerryError {
  return new FerryError('cli.usage', `${what} is missing`, { remedy });
}
