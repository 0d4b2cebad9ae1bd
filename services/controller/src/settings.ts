import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { checkAddress } from '@ferry/api';
import { errorText, FerryError } from '@ferry/core';
import { type LogLevel, logLevels } from './logger.js';
import type { RedisTarget } from './store/db.js';

/** Everything that can be set from outside. Times in milliseconds. */
export interface Settings {
  readonly listen: string;
  readonly redis: RedisTarget;
  /** Folder of certificates; undefined: none, and only this host may call. */
  readonly tls: string | undefined;
  /** File of the bearer tokens that are accepted. */
  readonly tokens: string | undefined;
  /** Serve beyond this host without certificates. */
  readonly insecure: boolean;
  /** Undefined: to the log. */
  readonly auditLog: string | undefined;
  readonly prefix: string;
  readonly logLevel: LogLevel;
  readonly heartbeatIntervalMs: number;
  /** A node silent for so long is down. */
  readonly downAfterMs: number;
  /** A worker that does not renew its lock for so long has died; its job goes to another. */
  readonly jobLockMs: number;
  /** How long an agent may be out of reach before the work with it is called off, or in doubt. */
  readonly agentSilenceMs: number;
}

export const usage = `Usage: ferry-controller [--listen HOST:PORT] [--redis URL] [--prefix NAME] [--log-level LEVEL]

  --listen HOST:PORT    where users and agents reach it (127.0.0.1:7460); port 0 takes a free one
  --redis URL           redis://HOST:PORT/DB, rediss://..., unix:///PATH or a path (redis://127.0.0.1:6379)
  --redis-user NAME     the ACL user to log in as (default)
  --redis-password-file FILE   its password; or FERRY_REDIS_PASSWORD in the environment
  --redis-ca FILE       who must have signed the certificate of Redis, for rediss:// (the system's authorities)
  --tls DIR             ca.crt, tls.crt and tls.key of the controller (see "ferry ca"); needed beyond 127.0.0.1
  --tokens FILE         accept bearer tokens too: lines of "ferry ca token"
  --insecure            serve and call without certificates, on closed test networks
  --audit-log FILE      what was asked of the controller, by whom (the log)
  --prefix NAME         first part of every key in Redis (ferry)
  --log-level LEVEL     debug, info, warn or error (info)
  --down-after-ms N     a node silent for so long is down (8000)
  --job-lock-ms N       after so long the work of a controller that died goes to another (10000)
  --agent-silence-ms N  so long an agent may be out of reach before work with it is given up (30000)
`;

/** @throws FerryError settings.invalid */
export function parseSettings(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Settings | 'help' {
  const { values } = parse(args);
  if (values.help === true) return 'help';
  const level = values['log-level'] ?? 'info';
  if (!(logLevels as readonly string[]).includes(level)) {
    throw invalid(`--log-level ${level}`, `use one of ${logLevels.join(', ')}`);
  }
  const prefix = values.prefix ?? 'ferry';
  if (!/^[A-Za-z0-9_.-]{1,64}$/.test(prefix)) {
    throw invalid(`--prefix ${prefix}`, 'use 1 to 64 of A-Z, a-z, 0-9, "_", ".", "-"');
  }
  const listen = values.listen ?? '127.0.0.1:7460';
  checkAddress(listen.replace(/:0$/, ':1'));
  return {
    listen,
    redis: redisTarget(values, env),
    tls: values.tls === undefined ? undefined : resolve(values.tls),
    tokens: values.tokens === undefined ? undefined : resolve(values.tokens),
    insecure: values.insecure ?? false,
    auditLog: values['audit-log'] === undefined ? undefined : resolve(values['audit-log']),
    prefix,
    logLevel: level as LogLevel,
    heartbeatIntervalMs: 2000,
    downAfterMs: milliseconds('down-after-ms', values['down-after-ms'], 8000),
    jobLockMs: milliseconds('job-lock-ms', values['job-lock-ms'], 10_000),
    agentSilenceMs: milliseconds('agent-silence-ms', values['agent-silence-ms'], 30_000),
  };
}

/** The password stays out of arguments, which every user of the host can read, and out of everything that is logged. */
function redisTarget(
  values: Readonly<Record<string, string | boolean | undefined>>,
  env: NodeJS.ProcessEnv,
): RedisTarget {
  const value = (name: string) => (typeof values[name] === 'string' ? values[name] : undefined);
  const url = value('redis') ?? 'redis://127.0.0.1:6379';
  if (/^rediss?:\/\/[^/]*@/.test(url)) {
    throw new FerryError('settings.invalid', 'A user or password in --redis is not accepted', {
      remedy: 'give --redis-user and --redis-password-file: arguments are seen by every user',
    });
  }
  const file = value('redis-password-file');
  return {
    url,
    user: value('redis-user'),
    password: file === undefined ? env.FERRY_REDIS_PASSWORD : readPassword(resolve(file)),
    ca: value('redis-ca') === undefined ? undefined : resolve(value('redis-ca') ?? ''),
  };
}

function readPassword(path: string): string {
  try {
    const password = readFileSync(path, 'utf8').trimEnd();
    if (password === '') throw new Error('It is empty');
    return password;
  } catch (cause) {
    throw new FerryError('settings.invalid', `The password of Redis in ${path} cannot be read`, {
      cause,
      remedy: 'give a file that holds the password and nothing else',
    });
  }
}

function parse(args: readonly string[]) {
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args: [...args],
      options: {
        listen: text,
        redis: text,
        'redis-user': text,
        'redis-password-file': text,
        'redis-ca': text,
        tls: text,
        tokens: text,
        insecure: { type: 'boolean' },
        'audit-log': text,
        prefix: text,
        'log-level': text,
        'down-after-ms': text,
        'job-lock-ms': text,
        'agent-silence-ms': text,
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw new FerryError('settings.invalid', errorText(error), { remedy: 'see --help' });
  }
}

function milliseconds(name: string, value: string | undefined, fallback: number): number {
  if (value === undefined) return fallback;
  if (!/^[0-9]{3,8}$/.test(value)) {
    throw invalid(`--${name} ${value}`, 'give milliseconds, from 100 to 99999999');
  }
  return Number(value);
}

function invalid(what: string, remedy: string): FerryError {
  return new FerryError('settings.invalid', `${what} is not valid`, { remedy });
}
