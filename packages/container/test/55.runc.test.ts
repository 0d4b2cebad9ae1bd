import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Runc } from '../src/runc.js';

describe('the runtime', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-runc-'));
  });
  after(() => rmSync(folder, { recursive: true }));

  /** One that fails as often as told, with what it says then, before it answers. */
  function runtime(failures: number, text: string): Runc {
    const program = join(folder, 'runc');
    const count = join(folder, 'count');
    writeFileSync(count, '0\n');
    const lines = [
      '#!/bin/sh',
      `read n < ${count}; echo $((n + 1)) > ${count}`,
      `if [ "$n" -lt ${failures} ]; then echo "${text}" >&2; exit 1; fi`,
      'echo null',
    ];
    writeFileSync(program, `${lines.join('\n')}\n`);
    chmodSync(program, 0o755);
    return new Runc({ program, root: folder });
  }

  it('lists containers while others go', async () => {
    const gone = 'stat /run/ferry/runc/web: no such file or directory';
    assert.deepEqual(await runtime(3, gone).list(), []);
    assert.equal(readFileSync(join(folder, 'count'), 'utf8'), '4\n');
  });

  it('says why it cannot list them', async () => {
    const broken = runtime(1, 'the disk is on fire');
    await assert.rejects(broken.list(), /runc list {2}failed: the disk is on fire/);
    const empty = runtime(99, 'open state.json: no such file or directory');
    await assert.rejects(empty.list(), { code: 'container.runtime' });
  });
});
