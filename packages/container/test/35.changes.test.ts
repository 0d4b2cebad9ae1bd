import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteReader } from '../src/archive/byte-reader.js';
import { packChanges, unpackChanges } from '../src/archive/changes.js';
import { encodeEntry, encodeExtent, MAGIC } from '../src/archive/format.js';
import { packTree } from '../src/archive/pack.js';
import { namesIn } from '../src/archive/raw-fs.js';
import { SentBlocks } from '../src/archive/sent-blocks.js';
import { leavingOut, type TreeState, treeChanges, treeState } from '../src/archive/tree-state.js';
import { unpackTree } from '../src/archive/unpack.js';
import { mountOverlay, unmount } from '../src/overlay.js';
import { differences } from './same-trees.js';

describe('container: changes of a writable layer', () => {
  let base: string;
  const at = (side: 'here' | 'there', path = '') => join(base, side, 'merged', path);
  const upper = () => join(base, 'here', 'upper');
  before(async () => {
    base = mkdtempSync(join(tmpdir(), 'ferry-changes-'));
    const lower = join(base, 'lower');
    for (const folder of ['kept', 'gone', 'renewed']) {
      mkdirSync(join(lower, folder), { recursive: true });
      writeFileSync(join(lower, folder, 'file'), folder);
    }
    for (const side of ['here', 'there']) {
      const own = (name: string) => join(base, side, name);
      const places = { upper: own('upper'), work: own('work'), merged: own('merged') };
      await mountOverlay({ ...places, lower: [lower] });
    }
  });
  after(() => {
    for (const side of ['here', 'there'] as const) unmount(at(side));
    rmSync(base, { recursive: true });
  });

  const inHere = (script: string) =>
    execFileSync('/bin/sh', ['-ec', script], { cwd: at('here') }).toString();

  /** Everything that can be seen: kinds, modes, owners, sizes, times, names, link counts, contents. */
  function seen(side: 'here' | 'there'): string {
    const script =
      'find . -printf "%y %m %U %G %T@ %P -> %l\\n" | sort; find . -type f -printf "%n %P\\n" | sort; ' +
      'find . -type f | sort | xargs -r sha256sum; getfattr -R -d -m user . 2>/dev/null || true';
    return execFileSync('/bin/sh', ['-c', script], { cwd: at(side) }).toString();
  }

  const steps: [name: string, script: string][] = [
    [
      'new files of every kind',
      'mkdir a; echo 1 >a/b; ln -s b a/c; mkfifo a/d; mknod a/e c 1 3; ln a/b a/f',
    ],
    [
      'files changed in place, longer and shorter',
      'echo 22 >>a/b; : >kept/file; chmod 600 a/c a; chown 5:6 a/d',
    ],
    ['a file renamed over another', 'echo new >x; echo old >y; mv x y'],
    ['files and folders that are gone, also from below', 'rm -r gone a/c a/f; rm kept/file'],
    ['a folder that hides what is below it', 'rm -r renewed; mkdir renewed; echo 3 >renewed/other'],
    ['names that became something else', 'rm a/d; mkdir a/d; echo 4 >a/d/in; rm y; ln -s a y'],
    ['what was gone and is back', 'mkdir gone; echo 5 >gone/file; echo 6 >kept/file'],
    [
      'attributes, and holes',
      'dd if=/dev/null of=sparse bs=1M seek=3 2>/dev/null; chmod 4755 sparse',
    ],
  ];
  for (const [name, script] of steps) {
    it(`follows ${name}`, async () => {
      const before = await treeState(upper());
      inHere(script);
      const changes = treeChanges(before, await treeState(upper()));
      await unpackChanges(at('there'), packChanges(upper(), changes));
      assert.equal(seen('there'), seen('here'));
    });
  }

  it('keeps a file that is written in place, and whoever has mapped it', async () => {
    inHere('echo first >mapped');
    await unpackChanges(
      at('there'),
      packChanges(upper(), treeChanges(new Map(), await treeState(upper()))),
    );
    const inode = execFileSync('stat', ['-c', '%i', at('there', 'mapped')]).toString();
    const before = await treeState(upper());
    inHere('echo second >mapped');
    await unpackChanges(
      at('there'),
      packChanges(upper(), treeChanges(before, await treeState(upper()))),
    );
    assert.equal(readFileSync(at('there', 'mapped'), 'utf8'), 'second\n');
    assert.equal(execFileSync('stat', ['-c', '%i', at('there', 'mapped')]).toString(), inode);
  });

  it('sends of a folder that is wanted whole nothing that came after the look', async () => {
    inHere('rm -rf renewed; mkdir renewed; echo 1 >renewed/early');
    const before = await treeState(upper());
    inHere('rm -r renewed; mkdir renewed; echo 2 >renewed/early');
    const now = await treeState(upper());
    const changes = treeChanges(leavingOut(before, ['renewed']), now);
    assert(changes.whole.has('renewed'), 'it is one of those');
    inHere('echo 3 >renewed/late');
    await unpackChanges(at('there'), packChanges(upper(), changes, { looked: now }));
    assert.deepEqual(readdirSync(at('there', 'renewed')), ['early']);
    inHere('rm renewed/late');
    await unpackChanges(
      at('there'),
      packChanges(upper(), treeChanges(now, await treeState(upper()))),
    );
    assert.equal(seen('there'), seen('here'));
  });

  it('keeps the names of one thing together, when one comes in a folder that is wanted whole', async () => {
    inHere('rm -rf renewed; mkdir young; echo 1 >one; ln -s one link; ln one link young');
    const bring = async (before: TreeState): Promise<TreeState> => {
      const now = await treeState(upper());
      const changes = treeChanges(before, now);
      assert.equal(changes.whole.has('renewed'), now.has('renewed/one'));
      await unpackChanges(at('there'), packChanges(upper(), changes, { looked: now }));
      return now;
    };
    // So that times tell apart what happens before and after.
    await new Promise((done) => setTimeout(done, 50));
    const before = await bring(new Map());
    inHere('mv young renewed');
    await bring(before);
    assert.deepEqual(differences(at('here'), at('there')), []);
  });

  it('starts from what was looked at, without what came later', async () => {
    inHere('mkdir own; echo 1 >own/kept; echo 2 >own/gone');
    const looked = await treeState(upper());
    inHere('echo 3 >own/new; rm own/gone');
    const there = join(base, 'unpacked');
    mkdirSync(there);
    const out: string[] = [];
    const leftOut = (path: string) => out.push(path);
    await unpackTree(there, new ByteReader(packTree(upper(), { looked, leftOut })));
    assert.deepEqual(readdirSync(join(there, 'own')), ['kept']);
    assert.deepEqual(out, ['own/gone']);
    const below = new Map([['own/gone/in/it', looked.get('own/kept')!]]);
    assert.equal(leavingOut(below, out).get('own/gone/in/it')?.inode, -1n);
    assert.deepEqual(leavingOut(below, ['own/gone/in/i']), below);
    inHere('rm -r own');
  });

  it('brings of a file that was sent before only the blocks that differ', async () => {
    const sent = new SentBlocks();
    const bring = async (before: TreeState): Promise<{ now: TreeState; bytes: number }> => {
      const now = await treeState(upper());
      let bytes = 0;
      const changes = packChanges(upper(), treeChanges(before, now), { sent });
      const counted = async function* () {
        for await (const chunk of changes) {
          bytes += chunk.length;
          yield chunk;
        }
      };
      await unpackChanges(at('there'), counted());
      assert.equal(seen('there'), seen('here'));
      return { now, bytes };
    };
    inHere('dd if=/dev/urandom of=growing bs=1M count=2 2>/dev/null');
    let { now } = await bring(new Map());
    for (const script of [
      'echo more >>growing',
      'printf x | dd of=growing bs=1 seek=200000 conv=notrunc 2>/dev/null',
      'truncate -s 1000000 growing; truncate -s 3M growing; chmod 600 growing',
      'fallocate -p -o 100000 -l 500000 growing',
    ]) {
      inHere(script);
      const brought = await bring(now);
      assert(brought.bytes < 200_000, `${brought.bytes} bytes: ${script}`);
      now = brought.now;
    }
  });

  /** Copies what has changed since `before`, while something else happens to it. */
  async function follow(before: TreeState, happens: string, sent?: SentBlocks): Promise<TreeState> {
    const now = await treeState(upper());
    const changes = treeChanges(before, now);
    inHere(happens);
    const out: string[] = [];
    const options = { sent, leftOut: (path: string) => out.push(path) };
    await unpackChanges(at('there'), packChanges(upper(), changes, options));
    return leavingOut(now, out);
  }

  it('makes or removes next time what a copy had to leave out', async () => {
    inHere('mkdir -p moving/in; echo 1 >moving/in/file; echo 1 >short; echo 1 >other');
    let state = await follow(
      new Map(),
      'mv moving away; rm short; rm other; mkdir other; echo 2 >other/x',
    );
    state = await follow(state, 'mv away moving');
    state = await follow(state, ':');
    await follow(state, ':');
    assert.equal(seen('there'), seen('here'));
  });

  it('makes next time what a folder that is wanted whole had lost when it was copied', async () => {
    inHere('rm -rf renewed; mkdir -p renewed/in aside; echo 1 >renewed/in/file');
    // So that times tell apart what happens before and after.
    await new Promise((done) => setTimeout(done, 50));
    const state = await follow(new Map(), 'mv renewed/in aside');
    inHere('mv aside/in renewed');
    await follow(state, ':');
    assert.equal(seen('there'), seen('here'));
  });

  it('makes next time what was a whiteout while it was copied', async () => {
    const sent = new SentBlocks();
    inHere('rm -f kept/file; echo 1 >young');
    const before = await follow(new Map(), ':', sent);
    inHere('mv young kept/file');
    const state = await follow(before, 'mv kept/file young', sent);
    inHere('mv young kept/file');
    await follow(state, ':', sent);
    assert.equal(seen('there'), seen('here'));
  });

  it('does not take another kind of file for the one whose inode it was given', async () => {
    for (const other of ['ln -s nowhere reused', 'mkdir reused', 'mkfifo reused']) {
      inHere('rm -rf reused; echo first >reused');
      let state = await follow(new Map(), ':');
      inHere('echo more >>reused');
      state = await follow(state, `rm reused; ${other}`);
      state = await follow(state, ':');
      await follow(state, ':');
      assert.equal(seen('there'), seen('here'), other);
    }
  });

  it('takes an entry once that the kernel names twice, as of one that is replaced meanwhile', () => {
    const folder = undefined as never;
    assert.deepEqual(
      namesIn(folder, () => ['slot6', 'b', 'slot6', 'a']),
      ['a', 'b', 'slot6'],
    );
  });

  it('says nothing where nothing was changed', async () => {
    await new Promise((done) => setTimeout(done, 50));
    const before = await treeState(upper());
    const chunks: Buffer[] = [];
    const changes = treeChanges(before, await treeState(upper()));
    for await (const chunk of packChanges(upper(), changes)) chunks.push(chunk);
    assert.deepEqual(chunks, []);
  });

  for (const [what, script] of [
    ['a device', 'mknod it c 1 3'],
    ['a FIFO', 'mkfifo it'],
    ['a symbolic link', 'ln -s kept it'],
    ['nothing', ''],
  ] as const) {
    it(`opens only files to write them in place: ${what}`, async () => {
      execFileSync('/bin/sh', ['-ec', script], { cwd: at('there') });
      const meta = { mode: 0o644, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] };
      const kinds = what === 'nothing' ? (['patch'] as const) : (['file', 'patch'] as const);
      for (const kind of kinds) {
        const archive = Buffer.concat([
          Buffer.alloc(4),
          MAGIC,
          encodeEntry({ kind: 'directory', path: '', meta }),
          encodeEntry({ kind, path: 'it', meta, size: 1n }),
          encodeExtent(0n, 1),
          Buffer.from('x'),
        ]);
        const stream = (async function* () {
          yield archive;
        })();
        await assert.rejects(unpackChanges(at('there'), stream), {
          code: 'container.archive',
          message: /"it" is no file there/,
        });
      }
      rmSync(at('there', 'it'), { force: true });
    });
  }

  it('refuses paths that leave the tree', async () => {
    const outside = join(base, 'outside');
    writeFileSync(outside, 'mine');
    for (const path of ['../../outside', '/outside', 'a/../../../outside', '']) {
      const bytes = Buffer.alloc(8 + path.length);
      bytes.writeUInt32LE(1, 0);
      bytes.writeUInt32LE(path.length, 4);
      bytes.write(path, 8, 'latin1');
      const stream = (async function* () {
        yield bytes;
      })();
      await assert.rejects(unpackChanges(at('there'), stream), { code: 'container.archive' });
    }
    assert(existsSync(outside));
  });
});
