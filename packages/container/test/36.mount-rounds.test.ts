import { strict as assert } from 'node:assert';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { call, cString } from '@ferry/linux';
import { openFolder, readXattrs } from '../src/archive/raw-fs.js';
import { FileBlocks, SentBlocks } from '../src/archive/sent-blocks.js';
import { FileWriters, inodeOf, isHeld } from '../src/file-writers.js';
import {
  exportMountContent,
  importMountChanges,
  importMountContent,
} from '../src/mount-content.js';
import { MountRounds } from '../src/mount-rounds.js';
import { unmount } from '../src/overlay.js';
import { differences } from './same-trees.js';

const MOUNTS = ['/shm', '/scratch'];
const LARGE = 4 << 20;
const { signal } = new AbortController();

describe('container: tmpfs mounts in rounds', function () {
  this.timeout(30_000);
  let base: string;
  let mapping: string;
  let rounds: MountRounds;
  const children: ChildProcess[] = [];
  const root = (side: 'here' | 'there') => join(base, side);
  const at = (side: 'here' | 'there', path: string) => join(base, side, 'shm', path);
  before(() => {
    base = mkdtempSync(join(tmpdir(), 'ferry-mounts-'));
    mapping = join(base, 'mapping');
    execFileSync('cc', ['-O1', '-o', mapping, join(import.meta.dirname, 'mapping.c')]);
  });
  beforeEach(async () => {
    for (const side of ['here', 'there'] as const) {
      for (const mount of MOUNTS) {
        mkdirSync(join(root(side), mount), { recursive: true });
        execFileSync('mount', ['-t', 'tmpfs', 'none', join(root(side), mount)]);
      }
    }
    rounds = new MountRounds({
      root: root('here'),
      destinations: MOUNTS,
      hostPids: () => children.map(({ pid }) => pid!),
    });
  });
  afterEach(async () => {
    rounds[Symbol.dispose]();
    for (const child of children.splice(0)) {
      const ended = child.exitCode === null ? once(child, 'exit') : undefined;
      child.stdin?.end();
      await ended;
    }
    for (const side of ['here', 'there'] as const) {
      for (const mount of MOUNTS) unmount(join(root(side), mount));
    }
  });
  after(() => {
    rmSync(base, { recursive: true });
  });

  const inHere = (script: string) =>
    execFileSync('/bin/bash', ['-ec', script], { cwd: join(root('here'), 'shm') }).toString();

  function seen(side: 'here' | 'there'): string {
    const script =
      'find . -mindepth 1 -printf "%y %m %U %G %T@ %P -> %l\\n" | sort; find . -type f -printf "%n %P\\n" | sort; ' +
      'find . -type f | sort | xargs -r sha256sum';
    return execFileSync('/bin/sh', ['-c', script], { cwd: root(side) }).toString();
  }

  /** Passes on, and counts. */
  async function* counted(chunks: AsyncIterable<Buffer>, count: { bytes: number }) {
    for await (const chunk of chunks) {
      count.bytes += chunk.length;
      yield chunk;
    }
  }

  const copy = () => importMountContent(root('there'), MOUNTS, rounds.copy(signal));
  async function follow(look: 'running' | 'standing'): Promise<number> {
    const count = { bytes: 0 };
    const changes = counted(rounds.changes(look, signal), count);
    await importMountChanges(root('there'), MOUNTS, changes);
    return count.bytes;
  }

  /** Runs `mapping` and waits until it has written; `again` has it write once more. */
  async function writer(path: string, how: string): Promise<{ again(): Promise<void> }> {
    const child = spawn(mapping, [at('here', path), how], { stdio: ['pipe', 'pipe', 'inherit'] });
    children.push(child);
    const done = () => once(child.stdout, 'data');
    await done();
    return {
      again: async () => {
        const written = done();
        child.stdin.write('\n');
        await written;
      },
    };
  }

  const large = (path: string) => writeFileSync(at('here', path), Buffer.alloc(LARGE, path));
  /** So that times tell apart what happens before and after. */
  const pause = () => new Promise((done) => setTimeout(done, 50));

  const steps: [name: string, script: string][] = [
    [
      'new files of every kind',
      'mkdir a; echo 1 >a/b; ln -s b a/c; mkfifo a/d; mknod a/e c 1 3; ln a/b a/f',
    ],
    [
      'files longer and shorter, and other metadata',
      'echo 22 >>large; truncate -s 70000 second; chmod 600 small .; chown 5:6 small',
    ],
    ['a file renamed over another', 'echo new >x; mv x small'],
    ['files and folders that are gone', 'rm -r folder large'],
    [
      'names that became something else',
      'rm small; mkdir small; echo 4 >small/in; rm -r folder; ln -s large folder',
    ],
    ['names that changed places', 'mv small x; mv large small; mv x large'],
    ['further names, and fewer', 'ln large a; ln large z; rm large; ln second b'],
    [
      'holes',
      'fallocate -p -o 65536 -l 1000000 large; truncate -s 10M second; dd if=/dev/zero of=small bs=1M seek=1 count=1 2>/dev/null',
    ],
    ['a device that is a whiteout elsewhere', 'mknod white c 0 0; rm small; mknod small c 0 0'],
  ];
  for (const [name, script] of steps) {
    it(`follow ${name}`, async () => {
      large('large');
      large('second');
      inHere('echo 1 >small; mkdir -p folder/in; echo 2 >folder/in/file');
      await copy();
      assert.equal(seen('there'), seen('here'));
      inHere(script);
      await follow('running');
      assert.equal(seen('there'), seen('here'));
      inHere('echo more >>second; echo other >/dev/null');
      await follow('standing');
      assert.equal(seen('there'), seen('here'));
    });
  }

  it('follow attributes that came and went', async () => {
    const value = Buffer.from('1');
    const set = (path: string, name: string) =>
      call('setxattr', cString(at('here', path)), cString(name), value, value.length, 0);
    const names = (path: string) =>
      readXattrs(Buffer.from(at('there', path)), () => true).map(({ name }) => name);
    inHere('echo 1 >file; mkdir folder');
    for (const path of ['file', 'folder', '']) set(path, 'user.old');
    set('file', 'trusted.overlay.opaque');
    await copy();
    assert.deepEqual(names('file'), ['trusted.overlay.opaque', 'user.old']);
    for (const path of ['file', 'folder', '']) {
      call('removexattr', cString(at('here', path)), cString('user.old'));
      set(path, 'user.new');
    }
    call('removexattr', cString(at('here', 'file')), cString('trusted.overlay.opaque'));
    await follow('standing');
    for (const path of ['file', 'folder', '']) assert.deepEqual(names(path), ['user.new']);
  });

  it('say nothing where nothing was changed, and read nothing', async () => {
    large('large');
    await pause();
    await copy();
    assert.equal(await follow('running'), 4);
    assert.equal(await follow('standing'), 4);
  });

  for (const look of ['running', 'standing'] as const) {
    it(`bring what was written through a mapping that is gone (${look})`, async () => {
      large('large');
      await pause();
      await copy();
      const before = statSync(at('here', 'large'), { bigint: true });
      execFileSync(mapping, [at('here', 'large'), 'once']);
      const { mtimeNs, ctimeNs } = statSync(at('here', 'large'), { bigint: true });
      assert.deepEqual([mtimeNs, ctimeNs], [before.mtimeNs, before.ctimeNs]);
      await follow(look);
      assert.equal(seen('there'), seen('here'));
    });
  }

  it('bring what is written through a mapping that stays, and of its file only what differs', async () => {
    large('large');
    inHere('cp large other');
    const { again } = await writer('large', 'hold');
    await pause();
    await copy();
    await again();
    assert((await follow('running')) > LARGE / 2);
    assert.equal(seen('there'), seen('here'));
    inHere('printf x | dd of=other bs=1 seek=200000 conv=notrunc 2>/dev/null');
    const bytes = await follow('running');
    assert(bytes < 100_000, `${bytes} bytes`);
    await again();
    await follow('standing');
    assert.equal(seen('there'), seen('here'));
    assert((await follow('standing')) < 1000);
  });

  it('bring what is written by somebody who has the file in no table of descriptors', async () => {
    large('large');
    const { again } = await writer('large', 'sent');
    await pause();
    await copy();
    await again();
    await follow('standing');
    assert.equal(seen('there'), seen('here'));
  });

  it('keep a file that is mapped, when it gets another name that comes first', async () => {
    inHere('echo 1 >mapped');
    await copy();
    const { ino } = statSync(at('there', 'mapped'));
    inHere('ln mapped a; echo 2 >a; ln mapped z');
    await follow('running');
    assert.equal(seen('there'), seen('here'));
    assert.equal(statSync(at('there', 'mapped')).ino, ino);
  });

  it('keep the names of one thing together, when the folder of one of them gets another name', async () => {
    inHere('mkdir folder; echo 1 >file; mkfifo fifo; ln -s file link; ln file fifo link folder');
    await pause();
    await copy();
    inHere('mv folder other');
    await follow('running');
    assert.deepEqual(differences(at('here', ''), at('there', '')), []);
  });

  it('bring a file under its other name, whose first one went while it was copied', async () => {
    inHere('echo 1 >mapped');
    await copy();
    inHere('echo 2 >mapped; ln mapped a');
    const chunks = rounds.changes('running', signal);
    const disturbed = (async function* () {
      let isFirst = true;
      for await (const chunk of chunks) {
        // It has been looked at, and nothing is read yet.
        if (isFirst) inHere('rm mapped');
        isFirst = false;
        yield chunk;
      }
    })();
    await importMountChanges(root('there'), MOUNTS, disturbed);
    await follow('standing');
    assert.equal(seen('there'), seen('here'));
  });

  for (const [what, twin, early, late, after] of [
    ['its first name is away for a while', 'b', ':', 'rm b', 'ln c b'],
    ['a further name is away for a while', 'd', 'rm d', 'ln c d', ':'],
  ] as const) {
    it(`bring a file once, of which ${what}`, async () => {
      large('a');
      large('c');
      inHere(`ln c ${twin}`);
      // While the one before it is read, and when its own beginning has been.
      const write = 'printf new | dd of=c conv=notrunc status=none';
      const happens = new Map<number, string>([
        [LARGE / 2, early],
        [LARGE * 1.5, `${write}; ${late}`],
      ]);
      const chunks = rounds.copy(signal);
      const disturbed = (async function* () {
        let bytes = 0;
        for await (const chunk of chunks) {
          bytes += chunk.length;
          for (const [from, script] of happens) {
            if (bytes < from) continue;
            inHere(script);
            happens.delete(from);
          }
          yield chunk;
        }
      })();
      await importMountContent(root('there'), MOUNTS, disturbed);
      assert.equal(happens.size, 0);
      inHere(after);
      await follow('running');
      assert.equal(seen('there'), seen('here'));
    });
  }

  it('bring nothing that came and went while they were copied, and what went and came', async () => {
    inHere('mkdir folder; echo 1 >folder/moved; echo 2 >gone; ln gone twin');
    const chunks = rounds.copy(signal);
    const disturbed = (async function* () {
      let isFirst = true;
      for await (const chunk of chunks) {
        if (isFirst) inHere('echo 3 >new; ln folder/moved new-link; mv folder away; mv gone aside');
        isFirst = false;
        yield chunk;
      }
    })();
    await importMountContent(root('there'), MOUNTS, disturbed);
    inHere('rm new new-link; mv away folder; mv aside gone');
    await follow('running');
    assert.equal(seen('there'), seen('here'));
    await follow('standing');
    assert.equal(seen('there'), seen('here'));
  });

  it('are empty again when the copy fails, but for what else is mounted there', async () => {
    large('large');
    mkdirSync(at('there', 'inner/mounted'), { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', 'none', at('there', 'inner/mounted')]);
    try {
      writeFileSync(at('there', 'inner/mounted/kept'), '');
      const broken = (async function* () {
        for await (const chunk of rounds.copy(signal)) {
          yield chunk;
          if (chunk.length > LARGE / 8) throw new Error('lost');
        }
      })();
      await assert.rejects(importMountContent(root('there'), MOUNTS, broken), /lost/);
      assert.equal(
        execFileSync('find', ['.', '-mindepth', '1'], {
          cwd: join(root('there'), 'shm'),
        }).toString(),
        './inner\n./inner/mounted\n./inner/mounted/kept\n',
      );
    } finally {
      unmount(at('there', 'inner/mounted'));
    }
    await importMountContent(root('there'), MOUNTS, exportMountContent(root('here'), MOUNTS));
    assert.equal(readFileSync(at('there', 'large')).length, LARGE);
  });

  it('are given up once a look has failed', async () => {
    await copy();
    inHere('echo 1 >new');
    for await (const _ of rounds.changes('running', signal)) break;
    await assert.rejects(follow('standing'), { code: 'container.mounts' });
  });

  it('never touch a file that is mounted in one of them', async () => {
    const outside = join(base, 'outside');
    writeFileSync(outside, 'mine');
    inHere('echo 1 >file');
    await copy();
    execFileSync('mount', ['--bind', outside, at('there', 'file')]);
    try {
      inHere('echo 2 >file');
      await assert.rejects(follow('running'), { code: 'linux.EXDEV' });
      assert.equal(readFileSync(outside, 'utf8'), 'mine');
    } finally {
      unmount(at('there', 'file'));
    }
  });

  it('never touch what has changed of a file that is mounted in one of them', async () => {
    const outside = join(base, 'outside');
    writeFileSync(outside, 'mine');
    for (const side of ['here', 'there'] as const) {
      writeFileSync(at(side, 'file'), '');
      execFileSync('mount', ['--bind', outside, at(side, 'file')]);
    }
    try {
      await copy();
      writeFileSync(outside, 'written');
      await follow('standing');
      assert.equal(readFileSync(at('there', 'file'), 'utf8'), 'written');
    } finally {
      for (const side of ['here', 'there'] as const) unmount(at(side, 'file'));
    }
  });

  it('remember the blocks of a file, as far as they may', () => {
    const sent = new SentBlocks(64);
    const first = sent.begin(1n, 3n * 65536n);
    first?.set(0, Buffer.alloc(65536, 'x'));
    first?.set(2, Buffer.alloc(100, 'y'));
    const other = new FileBlocks(4n * 65536n);
    other.set(0, Buffer.alloc(65536, 'x'));
    other.set(2, Buffer.alloc(101, 'y'));
    assert.deepEqual(
      [0, 1, 2, 3].map((index) => other.equals(index, first!)),
      [true, true, false, true],
    );
    assert.equal(sent.begin(2n, 2n * 65536n), undefined);
    sent.keepOnly(new Map());
    assert.notEqual(sent.begin(2n, 2n * 65536n), undefined);
  });

  it('know which file an event is of, and when it is of any', () => {
    using folder = openFolder(join(root('here'), 'shm'));
    inHere('echo 1 >old');
    using writers = new FileWriters(folder);
    inHere('echo 2 >old; cat old >/dev/null; echo 3 >new');
    const inodes = ['old', 'new'].map((name) => statSync(at('here', name), { bigint: true }).ino);
    assert.deepEqual(writers.take(), new Set(inodes));
    assert.deepEqual(writers.take(), new Set());
    const overflow = Buffer.alloc(24);
    overflow.writeBigUInt64LE(0x4000n, 8);
    assert.equal(inodeOf(overflow), undefined);
    assert.equal(isHeld(Buffer.from(at('here', 'old'))), false);
    assert.equal(isHeld(Buffer.from(at('here', 'missing'))), true);
  });
});
