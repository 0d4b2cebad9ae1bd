import assert from 'node:assert/strict';
import { Registers } from '@ferry/linux';
import { numberLoadedBefore, restartedRegisters } from '../src/restart.js';

function registers(
  fields: Partial<Record<'rax' | 'orig_rax' | 'rip' | 'rdi' | 'rsi' | 'rdx' | 'r10', bigint>>,
): Registers {
  const out = new Registers(Buffer.alloc(27 * 8));
  for (const [name, value] of Object.entries(fields)) out.set(name as 'rax', value);
  return out;
}

const noCode = (): Buffer => Buffer.alloc(24);

describe('restartedRegisters', () => {
  it('leaves a thread that was in its own code alone', () => {
    const out = restartedRegisters(registers({ orig_rax: -1n, rax: -512n, rip: 0x1000n }), noCode);
    assert.equal(out.get('rip'), 0x1000n);
    assert.equal(BigInt.asIntN(64, out.get('rax')), -512n);
  });

  for (const code of [-512n, -513n, -514n]) {
    it(`makes an interrupted call again (${code})`, () => {
      const out = restartedRegisters(registers({ orig_rax: 0n, rax: code, rip: 0x1000n }), noCode);
      assert.equal(out.get('rax'), 0n);
      assert.equal(out.get('rip'), 0xffen);
    });
  }

  it('leaves a finished call its result', () => {
    const out = restartedRegisters(registers({ orig_rax: 1n, rax: 5n, rip: 0x1000n }), noCode);
    assert.equal(out.get('rax'), 5n);
    assert.equal(out.get('rip'), 0x1000n);
  });

  it('sleeps on for the time that was left, where the program made room for it', () => {
    const out = restartedRegisters(
      registers({ orig_rax: 35n, rax: -516n, rip: 0x1000n, rdi: 0x10n, rsi: 0x20n }),
      noCode,
    );
    assert.equal(out.get('rdi'), 0x20n);
    assert.equal(out.get('rax'), 35n);
  });

  it('does not touch the time of an absolute clock_nanosleep', () => {
    const saved = registers({
      orig_rax: 230n,
      rax: -516n,
      rip: 0x1000n,
      rsi: 1n,
      rdx: 0x10n,
      r10: 0x20n,
    });
    assert.equal(restartedRegisters(saved, noCode).get('rdx'), 0x10n);
  });

  it('finds out from the code which call was interrupted twice', () => {
    const code = Buffer.concat([Buffer.alloc(17), Buffer.from([0xb8, 7, 0, 0, 0, 0x0f, 0x05])]);
    assert.equal(numberLoadedBefore(code), 7n);
    const out = restartedRegisters(
      registers({ orig_rax: 219n, rax: -516n, rip: 0x1000n }),
      () => code,
    );
    assert.equal(out.get('rax'), 7n);
  });

  it('ends a call with EINTR when nothing tells which it was', () => {
    const out = restartedRegisters(registers({ orig_rax: 219n, rax: -516n, rip: 0x1000n }), noCode);
    assert.equal(BigInt.asIntN(64, out.get('rax')), -4n);
    assert.equal(out.get('rip'), 0x1000n);
  });
});
