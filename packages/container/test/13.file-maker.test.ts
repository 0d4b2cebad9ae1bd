import { deepEqual, equal, throws } from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makingAs } from '../src/archive/file-maker.js';

/** The ids with which this thread makes files, and what it may do. */
const own = (): string[] =>
  readFileSync('/proc/thread-self/status', 'utf8')
    .split('\n')
    .filter((line) => /^(Uid|Gid|CapEff):/.test(line));

describe('container: files made as somebody else', () => {
  it('are theirs, and those made afterwards are ours', () => {
    const folder = mkdtempSync(join(tmpdir(), 'ferry-maker-'));
    const before = own();
    try {
      const make = (name: string) => writeFileSync(join(folder, name), '');
      makingAs({ uid: 70_001, gid: 70_002 }, () => make('theirs'));
      make('ours');
      const { uid, gid } = statSync(join(folder, 'theirs'));
      deepEqual([uid, gid], [70_001, 70_002]);
      equal(statSync(join(folder, 'ours')).uid, process.getuid?.());
      deepEqual(own(), before);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('leave nothing changed when that cannot be, or fails', () => {
    const before = own();
    throws(() => makingAs({ uid: 70_001, gid: 0xffffffff }, () => {}));
    deepEqual(own(), before);
    const fails = () => {
      throw new Error('full');
    };
    throws(() => makingAs({ uid: 70_001, gid: 70_002 }, fails), /full/);
    deepEqual(own(), before);
  });
});
