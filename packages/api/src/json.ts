/** Fields that are maps: their keys are the user's, not ours. */
const mapFields = new Set(['labels']);

/** A message (or list of them) as plain JSON: snake_case names, 64-bit integers as numbers where
 *  a number holds them exactly and as decimal strings otherwise, bytes as base64, the chosen
 *  field of a oneof under its own name, absent fields left out. */
export function toPlainJson(value: unknown): unknown {
  if (typeof value === 'bigint') return bigintToJson(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(toPlainJson);
  if (typeof value !== 'object' || value === null) return value;
  const result: Record<string, unknown> = {};
  for (const [key, field] of Object.entries(value)) {
    if (field === undefined) continue;
    if (isOneof(field)) result[snakeCase(field.$case)] = toPlainJson(field.value);
    else if (mapFields.has(key)) result[key] = field;
    else result[snakeCase(key)] = toPlainJson(field);
  }
  return result;
}

function bigintToJson(value: bigint): number | string {
  const safe = value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= BigInt(Number.MIN_SAFE_INTEGER);
  return safe ? Number(value) : value.toString();
}

function isOneof(value: unknown): value is { $case: string; value: unknown } {
  return typeof value === 'object' && value !== null && '$case' in value && 'value' in value;
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
