import { availableParallelism, hostname } from 'node:os';
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
  /** Folder of certificates; undefined: none, and only this host may call. */
  readonly tls: string | undefined;
  /** Serve beyond this host without certificates. */
  readonly insecure: boolean;
  /** Undefined: in the state folder. */
  readonly auditLog: string | undefined;
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
  /** A decided migration whose other side is silent for so long is called in doubt. */
  readonly doubtAfterMs: number;
  /** Migrations under way at once, from here and to here; 0: no bound. */
  readonly maxOutgoing: number;
  readonly maxIncoming: number;
  /** Of all migrations together, each way, while their containers run; 0: no bound. */
  readonly bytesPerSecond: number;
  /** Keep a tracer ready, and have the code of a freeze run before it has to be fast. */
  readonly rehearse: boolean;
}

export const usage = `Usage: ferry-agent --state-dir DIR --bridge NAME --subnet NET/LEN [options]

  --node-id NAME          unique in the cluster (the host's name)
  --listen HOST:PORT      where the controller and other agents reach it (127.0.0.1:7461); port 0 takes a free one
  --advertise HOST:PORT   the address to tell them, where that is another one
  --controller HOST:PORT  where to register; without it the agent runs alone
  --tls DIR               ca.crt, tls.crt and tls.key of this node (see "ferry ca"); needed beyond 127.0.0.1
  --insecure              serve and call without certificates, on closed test networks
  --audit-log FILE        what was asked of the agent, by whom (STATE-DIR/audit.log)
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
  --doubt-after-ms        so long may the other agent be silent before a decided migration is in doubt (30000)
  --max-outgoing N        so many migrations from this host at once, others wait for their turn; 0: no bound
                          (one for every two CPUs, at least 2)
  --max-incoming N        the same of migrations to this host
  --bandwidth SIZE        bytes a second (64m, 1g) of all migrations together, each way, while their containers
                          run; what is sent of a frozen container is not held back (no bound)
  --no-rehearsal          start each tracer when it is needed: saves 80 MiB, and costs tens of milliseconds of downtime
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
  const doubt = values['doubt-after-ms'];
  return {
    nodeId,
    listen,
    advertise: values.advertise,
    controller: values.controller,
    tls: values.tls === undefined ? undefined : resolve(values.tls),
    insecure: values.insecure ?? false,
    auditLog: values['audit-log'] === undefined ? undefined : resolve(values['audit-log']),
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
    maxOutgoing: bound('max-outgoing', values['max-outgoing']),
    maxIncoming: bound('max-incoming', values['max-incoming']),
    bytesPerSecond: values.bandwidth === undefined ? 0 : size('bandwidth', values.bandwidth),
    rehearse: values['no-rehearsal'] !== true,
    doubtAfterMs: doubt === undefined ? 30_000 : positive('doubt-after-ms', doubt),
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
        tls: text,
        insecure: { type: 'boolean' },
        'audit-log': text,
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
        'doubt-after-ms': text,
        'max-outgoing': text,
        'max-incoming': text,
        bandwidth: text,
        'no-rehearsal': { type: 'boolean' },
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

/** Of migrations at once: two are faster than one, many only make each other's freezes longer. */
function bound(name: string, text: string | undefined): number {
  if (text === undefined) return Math.max(2, Math.floor(availableParallelism() / 2));
  return text === '0' ? 0 : positive(name, text);
}

const unitBytes: Readonly<Record<string, number>> = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3 };

function size(name: string, text: string): number {
  const [, digits = '', unit = ''] = /^([1-9][0-9]{0,9})([kmg]?)$/i.exec(text) ?? [];
  const bytes = Number(digits) * (unitBytes[unit.toLowerCase()] ?? 0);
  if (bytes > 0 && Number.isSafeInteger(bytes)) return bytes;
  throw invalid(`--${name} ${text}`, 'use a number with k, m or g behind it, such as 64m');
}

function invalid(what: string, remedy: string): FerryError {
  return new FerryError('settings.invalid', `Wrong settings: ${what}`, { remedy });
}
