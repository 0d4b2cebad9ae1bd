import assert from 'node:assert/strict';
import type { CompiledDump } from '@ferry/dumpbin';
import { HEADER_SIZE, OP_SIZE } from '@ferry/dumpbin';

export interface Step {
  readonly kind: number;
  readonly nr: number;
  readonly name: string;
  readonly args: bigint[];
}

/** The steps of a linked program: kind, number, name. */
export function stepsOf(image: Buffer): Step[] {
  const count = Number(image.readBigUInt64LE(104));
  const dataOffset = Number(image.readBigUInt64LE(88)) - Number(image.readBigUInt64LE(56));
  return Array.from({ length: count }, (_, i) => {
    const at = HEADER_SIZE + i * OP_SIZE;
    const name = dataOffset + image.readUInt32LE(at + 8);
    return {
      kind: image.readUInt8(at),
      nr: image.readUInt16LE(at + 2),
      name: image.toString('utf8', name, image.indexOf(0, name)),
      args: Array.from({ length: 6 }, (_, k) => image.readBigUInt64LE(at + 16 + k * 8)),
    };
  });
}

export function steps(dump: CompiledDump): Step[] {
  return stepsOf(dump.linked.image);
}

/** Asserts that the steps come in this order, other steps between them allowed. */
export function inOrder(actual: readonly string[], expected: readonly (string | RegExp)[]): void {
  let at = 0;
  for (const step of expected) {
    const found = actual.findIndex(
      (name, i) => i >= at && (typeof step === 'string' ? name === step : step.test(name)),
    );
    assert.ok(found >= 0, `"${step}" is missing after step ${at} of:\n${actual.join('\n')}`);
    at = found + 1;
  }
}
