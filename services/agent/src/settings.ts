import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { checkAddress, checkNodeName } from '@ferry/api';
import { errorText, FerryError } from '@ferry/core';
import { type LogLevel, logLevels } from './logger.js';

/** Everything that can be set from outside. Times in milliseconds. */
export interface Settings {
  readonly nodeId: string;
  readonly listen: string;
  /** Where others reach this agent; undefined: where it listens. */
  readonly advertise: string | undefined;
  /** Undefined: no controller, calls come from elsewhere. */
  readonly controller: string | undefined;
  readonly stateDir: string;
  readonly runDir: string;
  readonly cgroupParent: string;
  readonly runc: string;
  readonly bridge: string;
  /** The namespace that the bridge is in, where that is not the agent's own. */
  readonly hostNetns: string | undefined;
  readonly subnet: string;
  readonly range: string | undefined;
  readonly gateway: string | undefined;
  readonly mtu: number | undefined;
  /** Give the bridge this address, and make it where it is not. */
  readonly bridgeAddress: string | undefined;
  readonly logLevel: LogLevel;
  readonly migrationTimeoutMs: number;
}

export const usage = `Usage: ferry-agent --state-dir DIR --bridge NAME --subnet NET/LEN [options]

  --node-id NAME          unique in the cluster (the host's name)
  --listen HOST:PORT      where the controller and other agents reach it (127.0.0.1:7461); port 0 takes a free one
  --advertise HOST:PORT   the address to tell them, where that is another one
  --controller HOST:PORT  where to register; without it the agent runs alone
  --state-dir DIR         layers, containers, logs, checkpoints; not on an overlay
  --run-dir DIR           runtime state and network namespaces (STATE-DIR/run)
  --cgroup-parent PATH    the cgroup of all its containers (/ferry-NODE)
  --runc PROGRAM          the OCI runtime (runc)
  --bridge NAME           the bridge that containers are plugged into
  --host-netns FILE       the network namespace that the bridge is in, where the agent is in another
  --bridge-address A/LEN  make the bridge where it is missing, with this address
  --subnet NET/LEN        the network that all hosts share
  --range FIRST-LAST      the part of it that containers get addresses from
  --gateway ADDRESS       the containers' default route
  --mtu N                 of the containers' devices
  --migration-timeout-ms  so long may a migration take before its source commits (600000)
  --log-level LEVEL       debug, info, warn or error (info)
`;

/** @throws FerryError settings.invalid */
export function parseSettings(args: readonly string[]): Settings | 'help' {
  const { values } = parse(args);
  if (values.help === true) return 'help';
  const nodeId = checkNodeName(values['node-id'] ?? hostname().toLowerCase());
  const stateDir = resolve(needed('state-dir', values['state-dir']));
  const listen = values.listen ?? '127.0.0.1:7461';
  checkAddress(listen.replace(/:0$/, ':1'));
  for (const address of [values.advertise, values.controller]) {
    if (address !== undefined) checkAddress(address);
  }
  const level = values['log-level'] ?? 'info';
  if (!(logLevels as readonly string[]).includes(level)) {
    throw invalid(`--log-level ${level}`, `use one of ${logLevels.join(', ')}`);
  }
  const timeout = values['migration-timeout-ms'];
  return {
    nodeId,
    listen,
    advertise: values.advertise,
    controller: values.controller,
    stateDir,
    runDir: resolve(values['run-dir'] ?? join(stateDir, 'run')),
    cgroupParent: values['cgroup-parent'] ?? `/ferry-${nodeId}`,
    runc: values.runc ?? 'runc',
    bridge: needed('bridge', values.bridge),
    hostNetns: values['host-netns'],
    subnet: needed('subnet', values.subnet),
    range: values.range,
    gateway: values.gateway,
    mtu: values.mtu === undefined ? undefined : positive('mtu', values.mtu),
    bridgeAddress: values['bridge-address'],
    logLevel: level as LogLevel,
    migrationTimeoutMs: timeout === undefined ? 600_000 : positive('migration-timeout-ms', timeout),
  };
}

function parse(args: readonly string[]) {
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args: [...args],
      strict: true,
      options: {
        'node-id': text,
        listen: text,
        advertise: text,
        controller: text,
        'state-dir': text,
        'run-dir': text,
        'cgroup-parent': text,
        runc: text,
        bridge: text,
        'host-netns': text,
        'bridge-address': text,
        subnet: text,
        range: text,
        gateway: text,
        mtu: text,
        'migration-timeout-ms': text,
        'log-level': text,
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw invalid(errorText(error), 'see --help');
  }
}

function needed(name: string, value: string | undefined): string {
  if (value !== undefined && value !== '') return value;
  throw invalid(`--${name} is missing`, 'see --help');
}

function positive(name: string, text: string): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw invalid(`--${name} ${text}`, 'use a whole number above 0');
}

function invalid(what: string, remedy: string): FerryError {
  return new FerryError('settings.invalid', `Wrong settings: ${what}`, { remedy });
}
