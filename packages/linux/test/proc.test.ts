import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  hash64,
  ProcStatus,
  parseMappings,
  parseStat,
  procStat,
  readProc,
  sys,
  tryProcStat,
} from '@ferry/linux';

describe('parsers of /proc', () => {
  it('read a command with spaces and parentheses', () => {
    const rest = Array.from({ length: 50 }, (_, i) => i + 3)
      .join(' ')
      .replace('3 ', 'S ');
    const stat = parseStat(`42 (a (b) c) ${rest}`);
    assert.deepEqual([stat.pid, stat.comm, stat.state, stat.ppid], [42, 'a (b) c', 'S', 4]);
    assert.equal(stat.startTime, 22n);
  });

  it('find nothing of a process that is gone', () => {
    const { pid } = spawnSync('true');
    assert.equal(tryProcStat(pid), undefined);
    assert.equal(tryProcStat(process.pid)?.ppid, process.ppid);
  });

  it('read the state of this very process', () => {
    const stat = procStat(process.pid);
    assert.equal(stat.ppid, process.ppid);
    assert.equal(stat.argStart > 0n, true);
  });

  it('read mappings with their flags, names with spaces and deleted files', () => {
    const [first, second] = parseMappings(
      '7f00-8f00 r-xp 00001000 fe:01 77                        /tmp/a b (deleted)\nVmFlags: rd ex mr \n' +
        '9000-a000 rw-s 00000000 00:00 0 \nVmFlags: rd wr sh lo \n',
    );
    assert.equal(first?.name, '/tmp/a b (deleted)');
    assert.deepEqual(
      [first?.start, first?.execute, first?.shared, first?.inode],
      [0x7f00n, true, false, 77n],
    );
    assert.deepEqual(second?.flags, ['rd', 'wr', 'sh', 'lo']);
    assert.equal(second?.shared, true);
  });

  it('read single lines of a status file, with blanks in a command', () => {
    const status = new ProcStatus('Name:\t a b \nTracerPid:\t7\nPid:\t42\nNSpid:\t42\t1\n');
    assert.equal(status.get('Name'), ' a b ');
    assert.equal(status.get('Pid'), '42');
    assert.equal(status.get('NSpid'), '42\t1');
    assert.equal(status.get('Seccomp'), undefined);
  });

  it('read the mappings of this process without a gap in what is known of each', () => {
    const mappings = parseMappings(readProc('/proc/self/smaps'));
    assert.ok(mappings.length > 10);
    assert.ok(
      mappings.every((mapping) => mapping.flags.length > 0 || mapping.name === '[vsyscall]'),
    );
  });
});

describe('reading a file of /proc', () => {
  it('gives all of one that is longer than any before', () => {
    const folder = mkdtempSync(join(tmpdir(), 'ferry-read-'));
    try {
      const path = join(folder, 'long');
      // Longer than what other tests read: the buffer has to grow on the way.
      const text = 'line\n'.repeat(1_000_000);
      writeFileSync(path, text);
      assert.ok(readProc(path) === text);
      // With so much room the kernel would refuse this one (ENOMEM).
      assert.match(readProc('/proc/sys/kernel/ostype'), /^Linux/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('raw system calls', () => {
  it('return what the kernel returns, errors as negative numbers', () => {
    assert.equal(sys('getpid'), process.pid);
    assert.equal(sys('close', 1_000_000), -9);
  });

  it('refuse what is no argument', () => {
    assert.throws(() => sys('close', 'x' as never), { code: 'linux.argument' });
    assert.throws(() => sys('close', (1n << 65n) as never), { code: 'linux.argument' });
  });
});

describe('hash64', () => {
  it('is XXH64, by its published test values', () => {
    assert.equal(hash64(Buffer.from('')), 0xef46db3751d8e999n);
    assert.equal(hash64(Buffer.from('xxhash')), 0x32dd38952c4bc720n);
    assert.equal(hash64(Buffer.from('a')), 0xd24ec4f1a98c6e5bn);
  });
});
