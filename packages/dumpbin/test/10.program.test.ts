import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ferryRoot } from '@ferry/core';
import {
  EXPECT,
  FATE,
  FLAG,
  HEADER_SIZE,
  KIND,
  OP_SIZE,
  PAGE,
  PLAN_MAGIC,
  PLAN_VERSION,
  ProgramBuilder,
  REGION_LENGTH,
  REGION_START,
  SERVICE,
  SLOT_COUNT,
} from '@ferry/dumpbin';

const addresses = {
  dataAddress: 0x10000n,
  region: 0x8000n,
  regionLength: 0x9000,
  pagesOffset: 0x5000,
};

describe('layout.ts and plan.h', () => {
  const folder = join(ferryRoot(), 'packages/dumpbin/restorer');
  const plan = readFileSync(join(folder, 'plan.h'), 'utf8');
  const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase();

  /** Values of an enum in order, by name. */
  function cEnum(name: string): Map<string, number> {
    const body = new RegExp(`enum ${name} \\{([\\s\\S]*?)\\};`).exec(plan)![1]!;
    const values = new Map<string, number>();
    let next = 0;
    for (const [, word, fixed] of body
      .replace(/\/\*[\s\S]*?\*\//g, '')
      .matchAll(/(\w+)(?: = (\d+))?,/g)) {
      next = fixed === undefined ? next : Number(fixed);
      values.set(word!, next++);
    }
    return values;
  }

  it('agree on operations', () => {
    const names: Record<string, string> = { makeDeath: 'PLAN_MKDEATH' };
    for (const [name, value] of Object.entries(KIND)) {
      assert.equal(cEnum('plan_kind').get(names[name] ?? `PLAN_${snake(name)}`), value, name);
    }
  });

  it('agree on expectations and services', () => {
    for (const [name, value] of Object.entries(EXPECT)) {
      assert.equal(cEnum('plan_expect').get(`EXPECT_${snake(name)}`), value, name);
    }
    for (const [name, value] of Object.entries(SERVICE)) {
      assert.equal(cEnum('plan_service').get(`SERVICE_${snake(name)}`), value, name);
    }
  });

  it('agree on sizes and numbers', () => {
    assert.match(plan, new RegExp(`struct plan_op\\) == ${OP_SIZE}`));
    assert.match(plan, new RegExp(`struct plan_header\\) == ${HEADER_SIZE}`));
    assert.match(plan, new RegExp(`PLAN_MAGIC 0x${PLAN_MAGIC.toString(16)}ull`));
    assert.match(plan, new RegExp(`PLAN_VERSION ${PLAN_VERSION}\\b`));
    assert.match(plan, new RegExp(`PLAN_PAGE ${PAGE}ull`));
    assert.match(plan, new RegExp(`PLAN_ROOT ${FLAG.root}u[\\s\\S]*PLAN_LOADER ${FLAG.loader}u`));
    assert.match(plan, new RegExp(`struct plan_shared, goes\\) == ${FATE.goes}`));
    assert.match(plan, new RegExp(`struct plan_shared, gone\\) == ${FATE.gone}`));
    assert.match(plan, new RegExp(`PLAN_FAILED 0x${FATE.failed.toString(16)}u`));
    const header = readFileSync(join(folder, 'restorer.h'), 'utf8');
    assert.match(header, new RegExp(`SLOT_COUNT ${SLOT_COUNT}\\b`));
  });
});

describe('ProgramBuilder', () => {
  it('writes an operation as the restorer reads it', () => {
    const b = new ProgramBuilder();
    const slot = b.slot();
    b.sys('openat', [-100, b.cstr('/x'), 2, 0], 'open x', { into: slot });
    b.sys('close', [slot], 'close x', { expect: { orErrno: 9 } });
    const { ops, data } = b.link(addresses);
    assert.equal(ops.length, 2 * OP_SIZE);
    assert.equal(ops.readUInt8(0), KIND.syscall);
    assert.equal(ops.readUInt16LE(2), 257);
    assert.equal(ops.readUInt16LE(4), 1, 'slot 0, counted from 1');
    assert.equal(ops.readBigInt64LE(16), -100n);
    const path = Number(ops.readBigUInt64LE(24) - addresses.dataAddress);
    assert.equal(data.toString('latin1', path, path + 3), '/x\0');
    const name = ops.readUInt32LE(8);
    assert.equal(data.toString('latin1', name, name + 7), 'open x\0');
    assert.equal(ops.readUInt16LE(OP_SIZE + 6), 1, 'argument 0 is a slot');
    assert.equal(ops.readUInt8(OP_SIZE + 1), EXPECT.orErrno);
    assert.equal(ops.readBigUInt64LE(OP_SIZE + 64), 9n);
  });

  it('settles zeroed memory behind the data, page offsets and the region', () => {
    const b = new ProgramBuilder();
    b.bytes(Buffer.alloc(10));
    const stack = b.zeroed(4096, 16);
    b.sys('munmap', [REGION_START, REGION_LENGTH, stack], 'all kinds');
    const { ops, data } = b.link(addresses);
    assert.equal(ops.readBigUInt64LE(16), addresses.region);
    assert.equal(ops.readBigUInt64LE(24), BigInt(addresses.regionLength));
    assert.equal(ops.readBigUInt64LE(32), addresses.dataAddress + BigInt(data.length));
    assert.equal(data.length % 64, 0);
  });

  it('aligns what it puts into the data area', () => {
    const b = new ProgramBuilder();
    b.cstr('abc');
    assert.equal(b.bytes(Buffer.alloc(8), 64).offset % 64, 0);
    assert.equal(b.words(1, 2n, -1).offset % 8, 0);
  });

  it('refuses a jump to a place that does not exist', () => {
    const b = new ProgramBuilder();
    b.op('jump', [0, 0], 'nowhere', { target: b.label() });
    assert.throws(() => b.link(addresses), { code: 'dumpbin.label' });
  });

  it('refuses more slots than a task has', () => {
    const b = new ProgramBuilder();
    for (let i = 0; i < SLOT_COUNT; i++) b.slot();
    assert.throws(() => b.slot(), /slots/);
  });

  it('tells each step by name', () => {
    const b = new ProgramBuilder();
    b.sys('setsid', [], 'session 7');
    b.op('barrier', [1, 2], 'meet');
    assert.deepEqual(b.describe(), ['setsid()  # session 7', 'barrier(1, 2)  # meet']);
  });
});
