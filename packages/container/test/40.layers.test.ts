import assert from 'node:assert/strict';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LayerStore } from '../src/index.js';
import { buildProgramRootfs } from '../src/program-rootfs.js';

async function gather(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

describe('layer store', () => {
  let base: string;
  let here: LayerStore;
  let there: LayerStore;
  let digest: string;

  before(async () => {
    base = mkdtempSync(join(tmpdir(), 'ferry-layers-'));
    mkdirSync(join(base, 'tree/bin'), { recursive: true });
    writeFileSync(join(base, 'tree/bin/program'), Buffer.alloc(300_000, 'program'));
    here = await LayerStore.open(join(base, 'here'));
    there = await LayerStore.open(join(base, 'there'));
    digest = await here.addTree(join(base, 'tree'));
  });
  after(() => rmSync(base, { recursive: true, force: true }));

  it('names a layer by its content: adding it again gives the same name and no second copy', async () => {
    assert.match(digest, /^sha256:[0-9a-f]{64}$/);
    assert.equal(await here.addTree(join(base, 'tree')), digest);
    assert.equal(readdirSync(join(base, 'here')).length, 1);
    assert.ok(((await here.list())[0]?.sizeBytes ?? 0) >= 300_000);
  });

  for (const where of ['first', 'middle', 'last'] as const) {
    it(`refuses a layer with one flipped bit (${where} byte), and keeps nothing of it`, async () => {
      const bytes = await gather(here.exportLayer(digest));
      const at = where === 'first' ? 0 : where === 'last' ? bytes.length - 1 : bytes.length >> 1;
      bytes[at] = (bytes[at] as number) ^ 1;
      await assert.rejects(there.importLayer(digest, once(bytes)), { code: /^container\./ });
      assert.ok(!there.has(digest));
      assert.deepEqual(readdirSync(join(base, 'there')), []);
    });
  }

  it('refuses a good layer under another name', async () => {
    const other = `sha256:${'0'.repeat(64)}`;
    await assert.rejects(there.importLayer(other, here.exportLayer(digest)), {
      code: 'container.layer',
      message: /was asked for/,
    });
    assert.deepEqual(readdirSync(join(base, 'there')), []);
  });

  it('refuses a stream that breaks off, and a name that is a path', async () => {
    const bytes = await gather(here.exportLayer(digest));
    await assert.rejects(there.importLayer(digest, once(bytes.subarray(0, 1000))), {
      code: 'container.archive',
    });
    await assert.rejects(there.importLayer('sha256:../../etc', once(bytes)));
    assert.deepEqual(readdirSync(join(base, 'there')), []);
  });

  it('moves a layer to another store, where it is the same', async () => {
    await there.importLayer(digest, here.exportLayer(digest));
    const path = join(there.treePath(digest), 'bin/program');
    assert.deepEqual(readFileSync(path), readFileSync(join(base, 'tree/bin/program')));
    await there.verify(digest);
  });

  it('tells when a file of a layer was changed on disk', async () => {
    appendFileSync(join(there.treePath(digest), 'bin/program'), 'x');
    await assert.rejects(there.verify(digest), { code: 'container.layer', message: /was changed/ });
    await there.remove(digest);
    assert.ok(!there.has(digest));
    assert.throws(() => there.treePath(digest), { code: 'container.layer' });
  });

  it('removes interrupted ingests when it is opened', async () => {
    mkdirSync(join(base, 'there/.new-0123456789abcdef/tree'), { recursive: true });
    await LayerStore.open(join(base, 'there'));
    assert.deepEqual(readdirSync(join(base, 'there')), []);
  });
});

describe('root file system made of programs', () => {
  let base: string;
  let store: LayerStore;
  before(async () => {
    base = mkdtempSync(join(tmpdir(), 'ferry-rootfs-'));
    store = await LayerStore.open(base);
  });
  after(() => rmSync(base, { recursive: true, force: true }));

  const image = {
    ...{ kind: 'program' as const, programs: ['/bin/sh', '/usr/bin/ldd'], links: [] },
    copy: [{ from: '/etc/debian_version' }],
    files: [{ path: '/etc/app/app.conf', content: 'key = 1\n', mode: 0o600 }],
  };

  it('holds the program, its libraries and interpreter, and the same files give the same layer', async () => {
    const first = await store.addBuilt((tree) => buildProgramRootfs(tree, image));
    const second = await store.addBuilt((tree) => buildProgramRootfs(tree, image));
    assert.equal(first, second);
    const tree = store.treePath(first);
    const found = readdirSync(tree, { recursive: true, encoding: 'utf8' });
    for (const name of ['libc.so.6', 'ld-linux-x86-64.so.2', 'bash', 'ldd', 'debian_version']) {
      assert.ok(
        found.some((path) => path.endsWith(`/${name}`)),
        `${name} is missing`,
      );
    }
    assert.equal(readFileSync(join(tree, 'etc/app/app.conf'), 'utf8'), 'key = 1\n');
    assert.match(readFileSync(join(tree, 'etc/passwd'), 'utf8'), /^root:/);
  });

  it('names a program that is not there', async () => {
    const wrong = { ...image, programs: ['/bin/no-such-program'] };
    await assert.rejects(
      store.addBuilt((tree) => buildProgramRootfs(tree, wrong)),
      {
        code: 'container.image',
        message: /\/bin\/no-such-program/,
      },
    );
  });
});
