import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CheckpointFileReader, CheckpointFileWriter } from '../src/checkpoint-file.js';

describe('migration: a checkpoint file', () => {
  let folder: string;
  let path: string;
  const upper = randomBytes(5 << 20);
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-checkpoint-'));
    path = join(folder, 'file');
    const file = await CheckpointFileWriter.create(path);
    await file.all('manifest', [Buffer.from('{}')]);
    await file.all('upper', [upper]);
    await file.all('pages', [Buffer.from('a'), Buffer.from('b')]);
    await file.finish();
    await file.close();
  });
  after(() => rmSync(folder, { recursive: true }));

  async function readAll(bytes: Buffer): Promise<Buffer> {
    const copy = join(folder, 'copy');
    writeFileSync(copy, bytes);
    const file = await CheckpointFileReader.open(copy);
    try {
      await file.whole('manifest', 100);
      const got = await file.whole('upper', 10 << 20);
      await file.whole('pages', 100);
      await file.finish();
      return got;
    } finally {
      await file.close();
    }
  }

  it('gives back what was written', async () => {
    assert((await readAll(readFileSync(path))).equals(upper));
  });

  it('is refused when one bit of it flipped, wherever', async () => {
    const whole = readFileSync(path);
    for (const at of [16, 20, 24, 33, 60, 100_000, whole.length - 30, whole.length - 1]) {
      const bytes = Buffer.from(whole);
      bytes[at]! ^= 1;
      await assert.rejects(readAll(bytes), { code: 'checkpoint.damaged' }, `byte ${at}`);
    }
  });

  it('is refused when it was cut off, wherever', async () => {
    const whole = readFileSync(path);
    for (const length of [16, 17, 34, 1 << 20, whole.length - 24, whole.length - 1]) {
      const cut = whole.subarray(0, length);
      await assert.rejects(readAll(cut), { code: 'checkpoint.damaged' }, `${length} bytes`);
    }
  });

  it('is refused when it is something else, or of another version', async () => {
    const whole = readFileSync(path);
    await assert.rejects(readAll(Buffer.alloc(100)), { code: 'checkpoint.format' });
    await assert.rejects(readAll(Buffer.alloc(0)), { code: 'checkpoint.damaged' });
    const newer = Buffer.from(whole);
    newer.writeUInt32LE(9, 8);
    await assert.rejects(readAll(newer), { code: 'checkpoint.version' });
  });

  it('is refused when a section is missing in the middle', async () => {
    const whole = readFileSync(path);
    const withoutManifest = Buffer.concat([whole.subarray(0, 16), whole.subarray(34)]);
    await assert.rejects(readAll(withoutManifest), { code: 'checkpoint.damaged' });
  });
});
