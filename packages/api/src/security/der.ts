/** What it takes to write an X.509 certificate in DER (ITU-T X.690). Only encoding: whatever comes from others is read by
 *  OpenSSL, through node:crypto. */

const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  objectId: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** Tag, length, content. */
export function tagged(tag: number, ...content: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(content);
  if (body.length < 0x80) return Buffer.concat([Buffer.from([tag, body.length]), body]);
  const length: number[] = [];
  for (let rest = body.length; rest > 0; rest = Math.floor(rest / 256)) length.unshift(rest % 256);
  return Buffer.concat([Buffer.from([tag, 0x80 | length.length, ...length]), body]);
}

export function sequence(...items: readonly Uint8Array[]): Buffer {
  return tagged(tags.sequence, ...items);
}

export function set(...items: readonly Uint8Array[]): Buffer {
  return tagged(tags.set, ...items);
}

/** A context-specific tag: `[number] { content }`. */
export function explicit(number: number, ...content: readonly Uint8Array[]): Buffer {
  return tagged(0xa0 | number, ...content);
}

/** A primitive context-specific value: `[number] content`, as in GeneralName. */
export function implicit(number: number, content: Uint8Array): Buffer {
  return tagged(0x80 | number, content);
}

export function boolean(value: boolean): Buffer {
  return tagged(tags.boolean, Buffer.from([value ? 0xff : 0]));
}

/** @param bytes  big endian, taken as a number that is not negative */
export function unsigned(bytes: Uint8Array): Buffer {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start += 1;
  const digits = bytes.subarray(start);
  const sign = (digits[0] ?? 0) >= 0x80 ? Buffer.from([0]) : Buffer.alloc(0);
  return tagged(tags.integer, sign, digits);
}

/** @param unused  bits at the end that do not count */
export function bitString(bytes: Uint8Array, unused = 0): Buffer {
  return tagged(tags.bitString, Buffer.from([unused]), bytes);
}

export function octetString(bytes: Uint8Array): Buffer {
  return tagged(tags.octetString, bytes);
}

export function utf8String(text: string): Buffer {
  return tagged(tags.utf8String, Buffer.from(text));
}

/** `2.5.29.17` and the like. */
export function objectId(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const digits = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) {
      digits.unshift(0x80 | (left % 128));
    }
    bytes.push(...digits);
  }
  return tagged(tags.objectId, Buffer.from(bytes));
}

/** As RFC 5280 wants it: two digits of the year until 2049. Milliseconds since 1970, cut to the second. */
export function time(ms: number): Buffer {
  const text = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, '');
  const short = Number(text.slice(0, 4)) < 2050;
  const tag = short ? tags.utcTime : tags.generalizedTime;
  return tagged(tag, Buffer.from(short ? text.slice(2) : text));
}
