import { resolve } from 'node:path';
import { type ClusterClient, checkAddress, connectCluster, Security } from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { Command } from 'commander';

/** Options of every command that talks to a controller. */
export interface ClusterOptions {
  readonly controller?: string;
  readonly tls?: string;
  readonly tokenFile?: string;
  readonly json?: boolean;
}

const defaultController = '127.0.0.1:7460';

/** Adds --controller, --tls, --token-file and --json. */
export function withClusterOptions(command: Command): Command {
  return command
    .option(
      '--controller <address>',
      `HOST:PORT of the controller (FERRY_CONTROLLER, else ${defaultController})`,
    )
    .option('--tls <folder>', 'ca.crt, tls.crt and tls.key to show who you are (FERRY_TLS)')
    .option('--token-file <file>', 'a file with your token, instead of tls.crt (FERRY_TOKEN_FILE)')
    .option('--json', 'print JSON');
}

function absolute(path: string | undefined): string | undefined {
  return path === undefined || path === '' ? undefined : resolve(path);
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
  const security = Security.open({
    tls: absolute(options.tls ?? process.env.FERRY_TLS),
    tokenFile: absolute(options.tokenFile ?? process.env.FERRY_TOKEN_FILE),
  });
  const client = connectCluster(address, { security });
  try {
    return await use(client);
  } finally {
    client.close();
    security.close();
  }
}
