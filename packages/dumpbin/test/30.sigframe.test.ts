import assert from 'node:assert/strict';
import { signalFrame } from '@ferry/dumpbin';
import { Registers } from '@ferry/image';

describe('signalFrame', () => {
  const xstate = Buffer.alloc(832, 7);
  xstate.writeBigUInt64LE(0xe7n, 464);
  const frame = signalFrame(
    {
      registers: Registers.fromPartial({
        rip: 0x1234n,
        rsp: 0x5678n,
        rax: 0xffffffffffffffffn,
        cs: 0x33n,
        ss: 0x2bn,
      }),
      xstate,
      signalMask: 0x200n,
      altstack: { address: 0x9000n, size: 0x4000n, flags: 0 },
    },
    0x10000n,
    0xabcdn,
  );

  it('begins with the trampoline it returns through', () => {
    assert.equal(frame.readBigUInt64LE(0), 0xabcdn);
  });

  it('keeps registers, mask and alternate stack where struct ucontext has them', () => {
    assert.equal(frame.readBigUInt64LE(8 + 40 + 15 * 8), 0x5678n, 'rsp');
    assert.equal(frame.readBigUInt64LE(8 + 40 + 16 * 8), 0x1234n, 'rip');
    assert.equal(frame.readBigUInt64LE(8 + 40 + 13 * 8), 0xffffffffffffffffn, 'rax');
    assert.equal(frame.readBigUInt64LE(8 + 40 + 18 * 8), 0x002b000000000033n, 'cs and ss');
    assert.equal(frame.readBigUInt64LE(8 + 40 + 256), 0x200n, 'signal mask');
    assert.equal(frame.readBigUInt64LE(24), 0x9000n);
    assert.equal(frame.readBigUInt64LE(40), 0x4000n);
  });

  it('marks the XSAVE area so that the kernel restores all of it', () => {
    const at = Number(frame.readBigUInt64LE(8 + 40 + 23 * 8) - 0x10000n);
    assert.equal(at % 64, 0);
    assert.equal(frame.readUInt32LE(at + 464), 0x46505853, 'FP_XSTATE_MAGIC1');
    assert.equal(frame.readBigUInt64LE(at + 472), 0xe7n, 'features');
    assert.equal(frame.readUInt32LE(at + 480), xstate.length);
    assert.equal(frame.readUInt32LE(at + xstate.length), 0x46505845, 'FP_XSTATE_MAGIC2');
    assert.equal(frame.readUInt8(at + 100), 7);
  });
});
