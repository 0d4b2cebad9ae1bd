/** Numbers from a seed, the same everywhere (mulberry32). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number below `limit`. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }
}

/** What programs that read numbers are least ready for. */
const NUMBERS = [0, 1, -1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 65_535, 4096, 1_000_000_007];
const LARGE = [0n, 1n, 4096n, 0x7fffffffffffn, (1n << 63n) - 1n, (1n << 64n) - 1n];

/** Bytes with some of them changed, cut, doubled or taken from elsewhere. */
export function mutateBytes(bytes: Buffer, dice: Dice): Buffer {
  let out = Buffer.from(bytes);
  for (let rounds = 1 + dice.below(4); rounds > 0 && out.length > 0; rounds--) {
    const at = dice.below(out.length);
    const length = dice.below(Math.min(64, out.length - at)) + 1;
    const kind = dice.below(6);
    if (kind === 0) out[at] = dice.below(256);
    else if (kind === 1) out[at] = out[at]! ^ (1 << dice.below(8));
    else if (kind === 2) out = out.subarray(0, at);
    else if (kind === 3) out.copy(out, dice.below(out.length), at, at + length);
    else if (kind === 4) {
      out = Buffer.concat([out.subarray(0, at), out.subarray(at, at + length), out.subarray(at)]);
    } else out.fill(dice.pick([0, 0x7f, 0x80, 0xff]), at, at + length);
  }
  return out;
}

/** Changes some fields of a decoded message, wherever they are, to values of their type. In place. */
export function mutateMessage(message: object, dice: Dice): void {
  for (let rounds = 1 + dice.below(3); rounds > 0; rounds--) mutateOne(message, dice);
}

function mutateOne(message: object, dice: Dice): void {
  let at = message as Record<string, unknown>;
  for (;;) {
    const keys = Object.keys(at);
    if (keys.length === 0) return;
    const key = dice.pick(keys);
    const value = at[key];
    const isInner = typeof value === 'object' && value !== null && !(value instanceof Uint8Array);
    if (isInner && dice.below(8) > 0 && Object.keys(value).length > 0) {
      at = value as Record<string, unknown>;
      continue;
    }
    if (key === '$case') return;
    at[key] = changed(value, dice, Array.isArray(at));
    return;
  }
}

function changed(value: unknown, dice: Dice, isElement: boolean): unknown {
  if (typeof value === 'number') return dice.pick(NUMBERS);
  if (typeof value === 'bigint') return dice.pick(LARGE);
  if (typeof value === 'boolean') return !value;
  if (typeof value === 'string')
    return dice.pick(['', '/', '../..', 'x'.repeat(5000), '\0', value]);
  if (value instanceof Uint8Array) return mutateBytes(Buffer.from(value), dice);
  if (Array.isArray(value)) return changedList(value, dice);
  return isElement ? value : undefined;
}

function changedList(list: unknown[], dice: Dice): unknown[] {
  const kind = dice.below(4);
  if (kind === 0) return [];
  if (kind === 1) return [...list, ...list];
  if (kind === 2) return [...list].reverse();
  return list.filter(() => dice.below(2) === 0);
}
