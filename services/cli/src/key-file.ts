import type { KeyObject } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { FerryError } from '@ferry/core';
import { newSealKey, parseSealKey } from '@ferry/migration';

/** Where the key for checkpoints lies: --key, FERRY_KEY, or the user's own. */
export function keyFileOf(given: string | undefined): string {
  const path = given ?? process.env.FERRY_KEY;
  if (path !== undefined && path !== '') return resolve(path);
  return join(homedir(), '.config/ferry/checkpoint.key');
}

/** Makes a new key.
 *  @throws FerryError key.exists  rather than make the checkpoints under the old one unreadable */
export function makeKeyFile(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    const pem = newSealKey().export({ type: 'pkcs8', format: 'pem' });
    writeFileSync(path, pem, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
    throw new FerryError('key.exists', `There is a key in ${path} already`, {
      remedy: 'use it, or name another file',
    });
  }
}

/** @throws FerryError key.missing, key.invalid */
export function readKeyFile(path: string): KeyObject {
  let pem: Buffer;
  try {
    pem = readFileSync(path);
  } catch (cause) {
    throw new FerryError(
      'key.missing',
      `There is no key in ${path} to encrypt the checkpoint with`,
      {
        cause,
        remedy: 'make one with "ferry key init" (and keep a copy of it), or give --plain',
      },
    );
  }
  return parseSealKey(pem);
}
