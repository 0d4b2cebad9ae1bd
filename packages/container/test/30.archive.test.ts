import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { call, cString } from '@ferry/linux';
import fc from 'fast-check';
import {
  type Entry,
  encodeEnd,
  encodeEndOfContent,
  encodeEntry,
  encodeExtent,
  MAGIC,
} from '../src/archive/format.js';
import { readXattrs } from '../src/archive/raw-fs.js';
import { ByteReader, packTree, unpackTree } from '../src/index.js';

const AT_FDCWD = -100;
const S_IFCHR = 0o020000;
const S_IFSOCK = 0o140000;
const S_IFIFO = 0o010000;
const meta = { mode: 0o755, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] };
const root: Entry = { kind: 'directory', path: '', meta };

async function* inPieces(bytes: Buffer, pieceBytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
}

async function pack(tree: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of packTree(tree)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function unpack(tree: string, bytes: Buffer, pieceBytes = 1000) {
  mkdirSync(tree);
  return await unpackTree(tree, new ByteReader(inPieces(bytes, pieceBytes)));
}

/** An archive that says what we want, with a good hash. */
function archive(...parts: (Entry | Buffer)[]): Buffer {
  const bytes = Buffer.concat([
    MAGIC,
    ...parts.map((part) => (Buffer.isBuffer(part) ? part : encodeEntry(part))),
  ]);
  const hash = createHash('sha256').update(bytes).update(Buffer.of(255)).digest();
  return Buffer.concat([bytes, encodeEnd(hash)]);
}

function file(path: string, content: string): Buffer {
  const bytes = Buffer.from(content);
  return Buffer.concat([
    encodeEntry({ kind: 'file', path, meta, size: BigInt(bytes.length) }),
    encodeExtent(0n, bytes.length),
    bytes,
    encodeEndOfContent(),
  ]);
}

function mknod(path: string, mode: number, device = 0): void {
  call('mknodat', AT_FDCWD, cString(path), mode, device);
}

/** Paths of all entries, as latin1; Node's own recursive listing follows links. */
function below(tree: string, prefix = ''): string[] {
  const folder = Buffer.from(join(tree, prefix), 'latin1');
  return readdirSync(folder, { encoding: 'latin1' }).flatMap((name) => {
    const path = prefix === '' ? name : `${prefix}/${name}`;
    const isFolder = lstatSync(Buffer.from(join(tree, path), 'latin1')).isDirectory();
    return isFolder ? [path, ...below(tree, path)] : [path];
  });
}

/** All that a tree is, apart from inode numbers. */
function picture(tree: string): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  const names = ['', ...below(tree)].sort();
  for (const name of names) {
    const path = Buffer.from(join(tree, name), 'latin1');
    const about = lstatSync(path, { bigint: true });
    const content = about.isFile()
      ? createHash('sha256').update(readFileSync(path)).digest('hex')
      : about.isSymbolicLink()
        ? readlinkSync(path, 'latin1')
        : '';
    found[name] = {
      ...{ mode: about.mode, uid: about.uid, gid: about.gid, mtime: about.mtimeNs },
      ...{ links: about.isDirectory() ? 0n : about.nlink, device: about.rdev, content },
      xattrs: readXattrs(path, () => true).map(
        ({ name: key, value }) => `${key}=${value.toString('hex')}`,
      ),
    };
  }
  return found;
}

function makeEveryKind(tree: string): void {
  mkdirSync(join(tree, 'folder/inner'), { recursive: true });
  writeFileSync(join(tree, 'folder/small'), 'content', { mode: 0o640 });
  writeFileSync(join(tree, 'empty'), '');
  const big = Buffer.alloc(3 * 1024 * 1024 + 17);
  for (let at = 0; at < big.length; at += 1000) big[at] = at & 0xff;
  writeFileSync(join(tree, 'big'), big);
  writeFileSync(join(tree, 'setuid'), 'x');
  call('fchownat', AT_FDCWD, cString(join(tree, 'setuid')), 12, 34, 0);
  call('fchmodat', AT_FDCWD, cString(join(tree, 'setuid')), 0o4751);
  linkSync(join(tree, 'folder/small'), join(tree, 'zz-hard-link'));
  symlinkSync('/etc/passwd', join(tree, 'absolute-link'));
  symlinkSync('../..', join(tree, 'folder/link'));
  symlinkSync('nowhere', join(tree, 'dangling'));
  mknod(join(tree, 'whiteout'), S_IFCHR);
  mknod(join(tree, 'null'), S_IFCHR | 0o666, (1 << 8) | 3);
  mknod(join(tree, 'socket'), S_IFSOCK | 0o600);
  mknod(join(tree, 'fifo'), S_IFIFO | 0o600);
  writeFileSync(
    Buffer.concat([Buffer.from(`${tree}/bytes-`), Buffer.of(0xff, 0xc3, 0x0a)]),
    'odd name',
  );
  const opaque = cString('trusted.overlay.opaque');
  call('lsetxattr', cString(join(tree, 'folder')), opaque, Buffer.from('y'), 1, 0);
  call('lsetxattr', cString(join(tree, 'big')), cString('user.note'), Buffer.from('abc'), 3, 0);
  utimesSync(join(tree, 'folder/inner'), 100, 200.5);
  utimesSync(join(tree, 'folder'), 100, 300.25);
  utimesSync(tree, 100, 400);
}

describe('archive of a tree', () => {
  let base: string;
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'ferry-archive-'));
    mkdirSync(join(base, 'in'));
  });
  afterEach(() => rmSync(base, { recursive: true, force: true }));

  it('brings back every kind of file with owner, mode, times, attributes and links', async () => {
    makeEveryKind(join(base, 'in'));
    const bytes = await pack(join(base, 'in'));
    const { digest } = await unpack(join(base, 'out'), bytes);
    assert.deepEqual(picture(join(base, 'out')), picture(join(base, 'in')));
    assert.deepEqual(await pack(join(base, 'out')), bytes, 'equal trees must give equal bytes');
    assert.equal(digest, bytes.subarray(-32).toString('hex'));
  });

  it('keeps holes: a sparse file is small on the wire and on disk', async () => {
    const fd = join(base, 'in/sparse');
    writeFileSync(fd, 'start');
    call('truncate', cString(fd), 4 * 1024 ** 3);
    const chunks: Buffer[] = [];
    // A window of zeros costs a read each: a file of 4 GiB is the upper end of what a test should
    // read.
    call('truncate', cString(fd), 64 * 1024 ** 2);
    for await (const chunk of packTree(join(base, 'in'))) chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    assert.ok(bytes.length < 200_000, `${bytes.length} bytes`);
    await unpack(join(base, 'out'), bytes);
    const about = statSync(join(base, 'out/sparse'));
    assert.equal(about.size, 64 * 1024 ** 2);
    assert.ok(about.blocks * 512 < 200_000);
  });

  it('is the same however the stream is cut into chunks', async () => {
    writeFileSync(join(base, 'in/file'), Buffer.alloc(5000, 'ab'));
    const bytes = await pack(join(base, 'in'));
    for (const pieceBytes of [1, 7, 4096, bytes.length]) {
      const out = join(base, `out${pieceBytes}`);
      await unpack(out, bytes, pieceBytes);
      assert.deepEqual(readFileSync(join(out, 'file')), readFileSync(join(base, 'in/file')));
    }
  });

  it('refuses any single damaged byte and any cut', async () => {
    writeFileSync(join(base, 'in/file'), 'some content');
    symlinkSync('target', join(base, 'in/link'));
    const bytes = await pack(join(base, 'in'));
    let count = 0;
    const positions = fc.integer({ min: 0, max: bytes.length - 1 });
    await fc.assert(
      fc.asyncProperty(
        positions,
        fc.integer({ min: 1, max: 255 }),
        fc.boolean(),
        async (at, flip, cut) => {
          const damaged = cut ? bytes.subarray(0, at) : Buffer.from(bytes);
          if (!cut) damaged[at] = (damaged[at] as number) ^ flip;
          const error = await unpack(join(base, `out${count++}`), damaged).then(
            () => assert.fail(`byte ${at} of ${bytes.length} changed and nobody noticed`),
            (e: { code?: string }) => e,
          );
          assert.match(String(error.code), /^(container\.archive|linux\.\w+)$/);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('stops when aborted', async () => {
    writeFileSync(join(base, 'in/file'), Buffer.alloc(2_000_000, 1));
    const signal = AbortSignal.abort(new Error('enough'));
    await assert.rejects(async () => {
      for await (const _ of packTree(join(base, 'in'), { signal })) assert.fail('it went on');
    }, /enough/);
  });

  it('does not follow a folder that became a link while it was read', async () => {
    // The check is made on each folder as it is opened: a link in its place is stored as a link.
    symlinkSync('/etc', join(base, 'in/folder'));
    await unpack(join(base, 'out'), await pack(join(base, 'in')));
    assert.ok(lstatSync(join(base, 'out/folder')).isSymbolicLink());
    assert.deepEqual(readdirSync(join(base, 'out')), ['folder']);
  });
});

describe('hostile archive', () => {
  let base: string;
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'ferry-hostile-'));
    mkdirSync(join(base, 'outside'));
    writeFileSync(join(base, 'outside/victim'), 'untouched');
  });
  afterEach(() => rmSync(base, { recursive: true, force: true }));

  const folder = (path: string): Entry => ({ kind: 'directory', path, meta });
  const link = (path: string, target: string): Entry => ({ kind: 'symlink', path, meta, target });
  const hard = (path: string, target: string): Entry => ({ kind: 'hardLink', path, target });

  const patch: Entry = { kind: 'patch', path: 'a', meta, size: 0n };

  const rows: [string, (base: string) => (Entry | Buffer)[]][] = [
    ['a path with ".."', () => [root, file('../outside/new', 'x')]],
    ['".." in the middle', () => [root, folder('a'), file('a/../../outside/new', 'x')]],
    ['an absolute path', (b) => [root, file(join(b, 'outside/new'), 'x')]],
    ['a path with "."', () => [root, file('./new', 'x')]],
    ['an empty component', () => [root, folder('a'), file('a//new', 'x')]],
    ['a file below a relative link', () => [root, link('l', '../outside'), file('l/new', 'x')]],
    [
      'a file below an absolute link',
      (b) => [root, link('l', join(b, 'outside')), file('l/new', 'x')],
    ],
    [
      'a folder over a link',
      () => [root, link('l', '../outside'), folder('l'), file('l/new', 'x')],
    ],
    ['a file over a link', () => [root, link('l', '../outside/victim'), file('l', 'x')]],
    ['a hard link out by ".."', () => [root, hard('h', '../outside/victim'), file('h', 'x')]],
    ['a hard link through a link', () => [root, link('l', '../outside'), hard('h', 'l/victim')]],
    ['a hard link to the root', () => [root, hard('h', '')]],
    ['a root that is a link', () => [link('', '../outside')]],
    ['no root', () => [file('new', 'x')]],
    ['two roots', () => [root, root]],
    ['a patch where nothing may be there', () => [root, patch]],
    ['an entry twice', () => [root, file('a', 'x'), file('a', 'y')]],
    ['an entry in a folder that never came', () => [root, file('a/b', 'x')]],
    [
      'an entry in a folder that was left',
      () => [root, folder('a'), file('b', 'x'), file('a/c', 'x')],
    ],
    ['a NUL in a path', () => [root, file('a\0b', 'x')]],
    [
      'content past the end of its file',
      () => [
        root,
        encodeEntry({ kind: 'file', path: 'a', meta, size: 1n }),
        encodeExtent(0n, 2),
        Buffer.from('xy'),
        encodeEndOfContent(),
      ],
    ],
    [
      'content that goes backwards',
      () => [
        root,
        encodeEntry({ kind: 'file', path: 'a', meta, size: 9n }),
        ...[encodeExtent(4n, 2), Buffer.from('xy'), encodeExtent(0n, 1), Buffer.from('x')],
        encodeEndOfContent(),
      ],
    ],
    [
      'an attribute of the kernel',
      () => [
        root,
        {
          ...{ kind: 'directory' as const, path: 'a' },
          meta: {
            ...meta,
            xattrs: [{ name: 'trusted.overlay.redirect', value: Buffer.from('/etc') }],
          },
        },
      ],
    ],
    [
      'a file of 2^60 bytes',
      () => [root, encodeEntry({ kind: 'file', path: 'a', meta, size: 1n << 60n })],
    ],
    ['a record of unknown kind', () => [root, Buffer.of(99)]],
    ['nothing', () => []],
  ];
  for (const [name, make] of rows) {
    it(`is refused, and nothing outside is touched: ${name}`, async () => {
      await assert.rejects(unpack(join(base, 'out'), archive(...make(base))), {
        code: /^(container\.archive|linux\.\w+)$/,
      });
      assert.deepEqual(readdirSync(join(base, 'outside')), ['victim']);
      assert.equal(readFileSync(join(base, 'outside/victim'), 'utf8'), 'untouched');
      assert.equal(statSync(join(base, 'outside/victim')).nlink, 1);
      assert.deepEqual(readdirSync(base).sort(), ['out', 'outside']);
    });
  }

  it('the same kinds of entries are accepted where they stay inside', async () => {
    const good = archive(
      ...[root, folder('a'), file('a/b', 'x'), link('a/l', '/etc/passwd'), hard('h', 'a/b')],
    );
    await unpack(join(base, 'out'), good);
    assert.equal(readFileSync(join(base, 'out/h'), 'utf8'), 'x');
    assert.ok(!existsSync(join(base, 'out/l')));
  });
});
