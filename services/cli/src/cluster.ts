import { type ClusterClient, checkAddress, connectCluster } from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { Command } from 'commander';

/** Options of every command that talks to a controller. */
export interface ClusterOptions {
  readonly controller?: string;
  readonly json?: boolean;
}

const defaultController = '127.0.0.1:7460';

/** Adds --controller and --json. */
export function withClusterOptions(command: Command): Command {
  return command
    .option(
      '--controller <address>',
      `HOST:PORT of the controller (FERRY_CONTROLLER, else ${defaultController})`,
    )
    .option('--json', 'print JSON');
}

/** Runs `use` with a connection to the controller, and closes it. */
export async function withCluster<T>(
  options: ClusterOptions,
  use: (client: ClusterClient) => Promise<T>,
): Promise<T> {
  const given = options.controller ?? process.env.FERRY_CONTROLLER;
  const address = given === undefined || given === '' ? defaultController : given;
  try {
    checkAddress(address);
  } catch (cause) {
    throw new FerryError('cli.usage', `"${address}" is not the address of a controller`, {
      cause,
      remedy: 'write HOST:PORT in --controller or FERRY_CONTROLLER',
    });
  }
  const client = connectCluster(address);
  try {
    return await use(client);
  } finally {
    client.close();
  }
}
