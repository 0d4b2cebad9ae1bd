import { strict as assert } from 'node:assert';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { folderBytes } from '../src/folder-bytes.js';

describe('migration: room that a folder takes', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-bytes-'));
    mkdirSync(join(folder, 'below'));
    writeFileSync(join(folder, 'below/file'), Buffer.alloc(10_000));
  });
  after(() => rmSync(folder, { recursive: true }));

  it('is that of all files below', async () => {
    assert(BigInt(await folderBytes(folder)) >= 10_000n);
  });

  it('is none of what is gone, or where a file has taken the place of its folder', async () => {
    assert.equal(await folderBytes(join(folder, 'gone')), 0);
    assert.equal(await folderBytes(join(folder, 'below/file/gone')), 0);
  });
});
