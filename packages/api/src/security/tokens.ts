import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { errorText, FerryError } from '@ferry/core';
import { type Caller, isRole, type Role, uriOf } from './identity.js';

interface Entry {
  readonly caller: Caller;
  /** Unix milliseconds. */
  readonly until: number;
}

const POLL_MS = 2000;
/** Told apart from other secrets wherever one turns up. */
const PREFIX = 'ferry_';

/** A new bearer token, and the line that has a controller accept it. The token itself is written down nowhere.
 *  @throws FerryError security.invalid */
export function createToken(options: { role: Role; name: string; days: number; now?: number }) {
  uriOf(options);
  const token = `${PREFIX}${randomBytes(32).toString('base64url')}`;
  const until = new Date((options.now ?? Date.now()) + options.days * 24 * 3600 * 1000);
  const line = `${digestOf(token)} ${options.role} ${options.name} ${until.toISOString()}`;
  return { token, line };
}

/** The bearer tokens that a controller accepts: a file of lines `SHA-256 ROLE NAME UNTIL`, read again when it changes.
 *  It holds no secret. */
export class TokenFile {
  readonly #path: string;
  readonly #onProblem: (text: string) => void;
  #entries: ReadonlyMap<string, Entry>;
  #stamp: string;
  #lookedAt = 0;

  private constructor(path: string, onProblem: (text: string) => void) {
    this.#path = path;
    this.#onProblem = onProblem;
    this.#stamp = stampOf(path);
    this.#entries = readTokens(path);
  }

  /** @throws FerryError security.files */
  static open(path: string, options: { onProblem?: (text: string) => void } = {}): TokenFile {
    return new TokenFile(path, options.onProblem ?? (() => {}));
  }

  /** Whose token it is; undefined: nobody's, or its time is over. */
  callerOf(token: string, now = Date.now()): Caller | undefined {
    this.#refresh(now);
    // Looked up by digest: how long that takes tells nothing about the token.
    const entry = this.#entries.get(digestOf(token));
    return entry !== undefined && entry.until > now ? entry.caller : undefined;
  }

  #refresh(now: number): void {
    if (Math.abs(now - this.#lookedAt) < POLL_MS) return;
    this.#lookedAt = now;
    try {
      const stamp = stampOf(this.#path);
      if (stamp === this.#stamp) return;
      this.#entries = readTokens(this.#path);
      this.#stamp = stamp;
    } catch (error) {
      this.#onProblem(errorText(error));
    }
  }
}

function stampOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined ? '-' : `${found.ino}:${found.size}:${found.mtimeMs}`;
}

function readTokens(path: string): ReadonlyMap<string, Entry> {
  const entries = new Map<string, Entry>();
  try {
    for (const [index, line] of readFileSync(path, 'utf8').split('\n').entries()) {
      const text = line.replace(/#.*/, '').trim();
      if (text === '') continue;
      const [digest = '', role = '', name = '', time = '', ...more] = text.split(/\s+/);
      const until = Date.parse(time);
      const good = /^[0-9a-f]{64}$/.test(digest) && isRole(role) && more.length === 0;
      // A program's own place is taken with a certificate only.
      const person = role !== 'agent' && role !== 'controller';
      if (!good || !person || Number.isNaN(until))
        throw new Error(`Line ${index + 1} is not valid`);
      uriOf({ role, name });
      entries.set(digest, { caller: { role, name }, until });
    }
  } catch (cause) {
    throw new FerryError('security.files', `The tokens in ${path} cannot be used`, {
      cause,
      remedy: 'write lines as "ferry ca token" prints them',
    });
  }
  return entries;
}

function digestOf(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}
