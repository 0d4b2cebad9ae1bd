import { readFileSync } from 'node:fs';
import { FerryError } from '@ferry/core';
import { Redis } from 'ioredis';
import type { Logger } from '../logger.js';

/** What every store needs: a connection, the names of keys, the time. */
export interface Db {
  readonly redis: Redis;
  /** `key('op', id)` → `PREFIX:op:ID`. */
  readonly key: (...parts: string[]) => string;
  readonly now: () => number;
}

/** Which Redis, and how to log in there. */
export interface RedisTarget {
  /** redis://, rediss://, unix:///PATH or an absolute path; no secret in it. */
  readonly url: string;
  readonly user?: string | undefined;
  readonly password?: string | undefined;
  /** A file of certificates, for rediss://. */
  readonly ca?: string | undefined;
}

/** A connection to Redis.
 *  @param use  `calls` fail after 3 s without Redis, so that an API call says so; `blocking`
 *      ones (queue workers, subscriptions) wait for it
 *  @throws FerryError redis.invalid */
export function connectRedis(
  target: RedisTarget,
  use: 'calls' | 'blocking',
  logger: Logger,
): Redis {
  const options = {
    maxRetriesPerRequest: use === 'calls' ? 5 : null,
    ...(use === 'calls' ? { commandTimeout: 3000 } : {}),
    retryStrategy: (attempt: number) => Math.min(attempt * 100, 1000),
  };
  const { user, password } = target;
  const redis = open(target, {
    ...options,
    ...(user === undefined ? {} : { username: user }),
    ...(password === undefined ? {} : { password }),
  });
  let down = false;
  redis.on('error', (error) => {
    if (!down) logger.warn('redis is out of reach', { use, error: String(error) });
    down = true;
  });
  redis.on('ready', () => {
    if (down) logger.info('redis is back', { use });
    down = false;
  });
  return redis;
}

interface CallOptions {
  readonly maxRetriesPerRequest: number | null;
  readonly commandTimeout?: number;
  readonly retryStrategy: (attempt: number) => number;
  readonly username?: string;
  readonly password?: string;
}

function open({ url, ca }: RedisTarget, options: CallOptions): Redis {
  if (url.startsWith('/')) return new Redis({ ...options, path: url });
  if (url.startsWith('unix://')) return new Redis({ ...options, path: url.slice(7) });
  if (/^redis:\/\/[^\s]+$/.test(url)) return new Redis(url, options);
  if (/^rediss:\/\/[^\s]+$/.test(url)) {
    const authorities = ca === undefined ? {} : { ca: readFileSync(ca) };
    return new Redis(url, { ...options, tls: { ...authorities, minVersion: 'TLSv1.2' } });
  }
  throw new FerryError('redis.invalid', `${JSON.stringify(url)} is not a Redis address`, {
    remedy: 'write redis://HOST:PORT, rediss://HOST:PORT, unix:///PATH or an absolute path',
  });
}

/** Whether an error says that Redis did not answer. What was asked of it may have been done all the same. */
export function isRedisLost(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return (
    error.name === 'MaxRetriesPerRequestError' ||
    /^(Command timed out|Connection is closed|Stream isn't writeable)/.test(error.message)
  );
}

/** The error of a call that Redis did not answer, for users; any other error as it is. */
export function redisError(error: unknown): unknown {
  if (!isRedisLost(error)) return error;
  return new FerryError('redis.unavailable', 'The controller cannot reach its Redis', {
    cause: error,
    remedy: 'start Redis, or correct --redis of the controller',
  });
}
