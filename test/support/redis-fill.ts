import { createHash } from 'node:crypto';
import { encodeCommand, type RespClient } from './resp.js';

const BATCH = 5000;

/** The value of key number `index`: its number and 48 letters that follow from it. */
export function valueAt(index: number): string {
  return `${index}:${createHash('md5').update(String(index)).digest('base64url')}${'.'.repeat(26)}`;
}

export function keyAt(index: number): string {
  return `key:${String(index).padStart(7, '0')}`;
}

/** Sets `count` keys, several thousand requests on the way at a time. */
export async function fill(
  client: RespClient,
  count: number,
  progress: (done: number) => void,
): Promise<void> {
  for (let from = 0; from < count; from += BATCH) {
    const size = Math.min(BATCH, count - from);
    // One MSET per hundred keys: Redis's answers would cost more than the keys.
    const replies = [];
    for (let at = from; at < from + size; at += 100) {
      const pairs = [];
      for (let i = at; i < Math.min(at + 100, from + size); i += 1)
        pairs.push(keyAt(i), valueAt(i));
      replies.push(client.send(encodeCommand(['MSET', ...pairs])));
    }
    for (const reply of await Promise.all(replies)) {
      if (reply !== 'OK') throw new Error(`Redis answered ${String(reply)}`);
    }
    progress(from + size);
  }
}

/** Reads `samples` keys spread over all of them; gives the names of those whose value is not what was set. */
export async function wrongValues(
  client: RespClient,
  count: number,
  samples: number,
): Promise<string[]> {
  const step = Math.max(1, Math.floor(count / samples));
  const wrong: string[] = [];
  for (let i = 0; i < count; i += step) {
    if ((await client.command('GET', keyAt(i))) !== valueAt(i)) wrong.push(keyAt(i));
  }
  return wrong;
}
