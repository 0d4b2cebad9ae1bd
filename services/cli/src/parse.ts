import { FerryError } from '@ferry/core';

const sizeUnits: Readonly<Record<string, number>> = { '': 0, k: 1, m: 2, g: 3, t: 4 };
const durationMs: Readonly<Record<string, number>> = {
  ...{ ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 },
};

/** `64m`, `1.5GiB`, `4096` → bytes; units are powers of 1024. @throws FerryError cli.usage */
export function parseSize(text: string): bigint {
  const match = /^([0-9]+(?:\.[0-9]+)?)([kmgt]?)(?:i?b)?$/i.exec(text);
  const power = sizeUnits[match?.[2]?.toLowerCase() ?? ''];
  if (match === null || power === undefined) {
    throw usage(`"${text}" is not a size`, 'write 64m, 2g or a number of bytes');
  }
  const bytes = Math.round(Number(match[1]) * 1024 ** power);
  if (!Number.isSafeInteger(bytes)) throw usage(`"${text}" is too large`, 'give at most 8000t');
  return BigInt(bytes);
}

/** `500ms`, `10s`, `5m`, `2h`, `1d` → milliseconds. @throws FerryError cli.usage */
export function parseDuration(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)$/.exec(text);
  if (match === null) throw usage(`"${text}" is not a duration`, 'write 500ms, 10s, 5m, 2h or 1d');
  return Math.round(Number(match[1]) * (durationMs[match[2] ?? ''] ?? 0));
}

/** `+10m`, `22:30` (the next one, local), or an ISO 8601 time (local unless it names its zone) →
 *  Unix milliseconds.
 *  @throws FerryError cli.usage */
export function parseTime(text: string, nowMs: number): number {
  if (text.startsWith('+')) return nowMs + parseDuration(text.slice(1));
  const clock = /^([01]?[0-9]|2[0-3]):([0-5][0-9])$/.exec(text);
  if (clock !== null) {
    const time = new Date(nowMs);
    time.setHours(Number(clock[1]), Number(clock[2]), 0, 0);
    if (time.getTime() <= nowMs) time.setDate(time.getDate() + 1);
    return time.getTime();
  }
  const iso = /^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$/;
  const time = iso.test(text) ? new Date(text.replace(' ', 'T')).getTime() : Number.NaN;
  if (Number.isNaN(time)) {
    throw usage(`"${text}" is not a time`, 'write +10m, 22:30 or 2026-05-01T22:30:00Z');
  }
  if (time < nowMs - 60_000) throw usage(`"${text}" has passed`, 'give a time to come');
  return time;
}

/** A count. @throws FerryError cli.usage */
export function parseCount(
  text: string,
  range: { readonly what: string; readonly min: number; readonly max: number },
): number {
  const value = /^[0-9]{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= range.min && value <= range.max) return value;
  throw usage(
    `${range.what} "${text}" is not valid`,
    `give a number from ${range.min} to ${range.max}`,
  );
}

/** `1000` or `1000:100`. @throws FerryError cli.usage */
export function parseUser(text: string): { uid: number; gid: number } {
  const [uid = '', gid = uid, ...more] = text.split(':');
  const range = { what: 'User or group', min: 0, max: 999_999_999 };
  if (more.length > 0) throw usage(`"${text}" is not a user`, 'write UID or UID:GID');
  return { uid: parseCount(uid, range), gid: parseCount(gid, range) };
}

/** `/on/the/node:/in/the/container[:ro]`. @throws FerryError cli.usage */
export function parseMount(text: string) {
  const [source = '', destination = '', mode = 'rw', ...more] = text.split(':');
  const known = mode === 'ro' || mode === 'rw';
  if (!source.startsWith('/') || !destination.startsWith('/') || !known || more.length > 0) {
    throw usage(`"${text}" is not a mount`, 'write /ON/THE/NODE:/IN/THE/CONTAINER or ...:ro');
  }
  return { source, destination, readOnly: mode === 'ro' };
}

/** `key=value`; the value may be empty. @throws FerryError cli.usage */
export function parsePair(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)];
  throw usage(`"${text}" is not a pair`, 'write KEY=VALUE');
}

export function usage(message: string, remedy: string): FerryError {
  return new FerryError('cli.usage', message, { remedy });
}

/** For commander: an option that may be given several times. */
export function collect(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}
