import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CheckpointFileReader, CheckpointFileWriter } from '../src/checkpoint-file.js';
import { newSealKey, publicHalf, SealedReader, SealedWriter } from '../src/sealed-file.js';

const MIB = 1 << 20;

describe('migration: an encrypted file', () => {
  let folder: string;
  const key = newSealKey();
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-sealed-'));
  });
  after(() => rmSync(folder, { recursive: true }));

  async function seal(content: readonly Buffer[]): Promise<Buffer> {
    const path = join(folder, 'sealed');
    const file = await open(path, 'w', 0o600);
    const writer = await SealedWriter.begin(file, publicHalf(key));
    for (const part of content) await writer.write(part);
    await writer.finish();
    await file.close();
    assert.equal(statSync(path).size, writer.bytes);
    return readFileSync(path);
  }

  async function unseal(bytes: Buffer, own: typeof key | undefined = key): Promise<Buffer> {
    const path = join(folder, 'copy');
    writeFileSync(path, bytes);
    const file = await open(path, 'r');
    try {
      const reader = await SealedReader.open(file, own);
      const parts: Buffer[] = [];
      for (let part = await reader.next(); part !== undefined; part = await reader.next()) {
        parts.push(part);
      }
      return Buffer.concat(parts);
    } finally {
      await file.close();
    }
  }

  it('gives back what went in, whatever its size', async () => {
    for (const size of [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB]) {
      const content = randomBytes(size);
      const halves = [content.subarray(0, size / 3), content.subarray(size / 3)];
      assert.ok((await unseal(await seal(halves))).equals(content), `${size} bytes`);
    }
  });

  it('shows nothing of it, and never the same twice', async () => {
    const content = Buffer.alloc(100_000, 'secret of the container ');
    const [first, second] = [await seal([content]), await seal([content])];
    assert.ok(!first.includes('secret'));
    assert.ok(!first.subarray(16).includes(second.subarray(200, 232)));
  });

  it('is refused when a bit of it flipped, wherever', async () => {
    const whole = await seal([randomBytes(5000)]);
    const places = [...Array.from({ length: 120 }, (_, i) => i), 200, 4000, whole.length - 1];
    for (const at of places) {
      if (at < 8 || (at >= 12 && at < 16)) continue; // another kind of file, or unused
      const bytes = Buffer.from(whole);
      bytes[at]! ^= 1 << (at % 8);
      await assert.rejects(unseal(bytes), { code: /^(checkpoint|key)\./ }, `byte ${at}`);
    }
  });

  it('is refused when frames are missing, swapped or added', async () => {
    const whole = await seal([randomBytes(3 * MIB)]);
    const head = 104;
    const frame = MIB + 20;
    const part = (index: number) =>
      whole.subarray(head + index * frame, head + (index + 1) * frame);
    const start = whole.subarray(0, head);
    const orders = { cut: [0, 1], swapped: [1, 0, 2], twice: [0, 1, 2, 2], middle: [0, 2] };
    assert.equal(whole.length, head + 3 * frame);
    for (const [name, order] of Object.entries(orders)) {
      const bytes = Buffer.concat([start, ...order.map(part)]);
      await assert.rejects(unseal(bytes), { code: 'checkpoint.damaged' }, name);
    }
  });

  it('opens with its key alone, and says which that is', async () => {
    const whole = await seal([Buffer.from('x')]);
    await assert.rejects(unseal(whole, newSealKey()), {
      code: 'key.other',
      remedy: /[0-9a-f]{16}/,
    });
    const path = join(folder, 'none');
    writeFileSync(path, whole);
    await assert.rejects(CheckpointFileReader.open(path), { code: 'key.missing', remedy: /--key/ });
  });

  it('holds a checkpoint', async () => {
    const path = join(folder, 'checkpoint');
    const upper = randomBytes(5 * MIB);
    const file = await CheckpointFileWriter.create(path, publicHalf(key));
    await file.all('manifest', [Buffer.from('{"a":"not to be seen"}')]);
    await file.all('upper', [upper]);
    await file.finish();
    await file.close();
    assert.equal(file.bytes, statSync(path).size);
    assert.ok(!readFileSync(path).includes('not to be seen'));
    const reader = await CheckpointFileReader.open(path, key);
    await reader.whole('manifest', 100);
    assert.ok((await reader.whole('upper', 10 * MIB)).equals(upper));
    await reader.finish();
    await reader.close();
  });
});
