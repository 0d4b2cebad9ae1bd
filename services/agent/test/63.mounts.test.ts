import { strict as assert } from 'node:assert';
import { mkdirSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SourceMessage } from '@ferry/api';
import { until } from '../../../test/support/shell.js';
import { changed, FaultyPort } from './support/faulty-port.js';
import { compiled, says } from './support/said.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

const STILL_MIB = 64;
const there: [HostName, HostName] = ['h1', 'h2'];
const back: [HostName, HostName] = ['h2', 'h1'];

/** An OCI bundle, which may have mounts in memory of its own. */
function bundleOf(rootfs: string, folder: string, args: readonly string[]): string {
  mkdirSync(folder);
  const inMemory = (destination: string) => ({
    ...{ destination, type: 'tmpfs', source: 'tmpfs' },
    options: ['nosuid', 'mode=755', 'size=256m'],
  });
  const config = {
    process: { user: { uid: 0, gid: 0 }, args, cwd: '/' },
    root: { path: rootfs },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      ...[inMemory('/dev'), inMemory('/dev/shm'), inMemory('/scratch')],
    ],
    linux: {},
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  return folder;
}

describe('agent: tmpfs mounts of containers that move while they run', function () {
  this.timeout(180_000);
  let two: TwoAgents;
  let moves = 0;
  before(async () => {
    two = await TwoAgents.start();
    const program = compiled(two, 'mounts');
    const rootfs = await two.rootfs([program]);
    for (const [name, mib] of [
      ['busy', 2],
      ['still', STILL_MIB],
    ] as const) {
      const bundle = bundleOf(rootfs, join(two.folder.path, name), [program, String(mib), name]);
      await two.run('h1', { name, bundle });
      await says(two, { host: 'h1', name });
    }
  });
  afterEach(async () => {
    two.wrapSource = undefined;
    // The source may still be giving up what the destination has heard the end of.
    await until('no watch', async () => (watches().length === 0 ? true : undefined));
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  /** Descriptors of this process, which is both agents, that file systems are watched by. */
  const watches = () =>
    readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).includes('fanotify');
      } catch {
        return false;
      }
    });

  const move = (name: string, [from, to]: [HostName, HostName], wishes = {}) => {
    moves += 1;
    return two.migrate(name, from, to, `mounts-${moves}`, wishes);
  };

  /** Counts what comes of files, by kind. */
  function counting(): Map<string, number> {
    const bytes = new Map<string, number>();
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        state: (chunks, kind) =>
          changed(chunks, (chunk) => {
            bytes.set(kind, (bytes.get(kind) ?? 0) + chunk.length);
            return chunk;
          }),
      });
    return bytes;
  }

  it('come whole, in whatever ways they are written meanwhile', async () => {
    for (const route of [there, back, there, back]) {
      const result = await move('busy', route);
      assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
      assert.doesNotMatch(result.warnings.join(), /while it stood/);
      await says(two, { host: route[1], name: 'busy' }, { more: 2 });
    }
  });

  it('come before the freeze, and in it only what has changed since', async () => {
    for (const route of [there, back]) {
      const bytes = counting();
      const result = await move('still', route);
      assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
      assert.doesNotMatch(result.warnings.join(), /while it stood/);
      assert((bytes.get('mounts-copy') ?? 0) > STILL_MIB << 20);
      assert((bytes.get('mounts-rest') ?? 0) < 64 << 10, `${bytes.get('mounts-rest')} bytes`);
      assert.equal(bytes.get('mounts'), undefined);
      await says(two, { host: route[1], name: 'still' });
    }
  });

  it('come before the freeze also where all memory moves in it', async () => {
    const bytes = counting();
    await move('busy', there, { mode: 'stop-copy' });
    assert(bytes.has('mounts-rest') && !bytes.has('mounts'));
    await says(two, { host: 'h2', name: 'busy' }, { more: 2 });
    await move('busy', back, { mode: 'stop-copy' });
    await says(two, { host: 'h1', name: 'busy' }, { more: 2 });
  });

  for (const [kind, what] of [
    ['mounts-copy', 'are copied'],
    ['mounts-changes', 'are followed'],
    ['mounts-rest', 'are followed in the freeze'],
  ] as const) {
    it(`come whole in the freeze when something fails while they ${what}`, async () => {
      let failed = 0;
      two.wrapSource = (port) =>
        new FaultyPort(port, {
          state: (chunks, of) =>
            changed(chunks, (chunk) => {
              if (of !== kind || failed > 0) return chunk;
              failed += 1;
              throw new Error('lost on the way');
            }),
        });
      const result = await move('busy', there);
      assert.equal(failed, 1);
      assert.match(result.warnings.join('; '), /moved while it stood/);
      await says(two, { host: 'h2', name: 'busy' }, { more: 2 });
      two.wrapSource = undefined;
      await move('busy', back);
      await says(two, { host: 'h1', name: 'busy' }, { more: 2 });
    });
  }

  for (const phase of ['layout', 'frozen'] as const) {
    it(`are no longer watched when it is cancelled (${phase})`, async () => {
      const migrationId = `mounts-cancelled-${phase}`;
      const { client } = two.at('h2');
      two.wrapSource = (port) =>
        new FaultyPort(port, {
          session: (answers) =>
            changed<SourceMessage>(answers, (answer) => {
              if (answer.message?.$case === phase) {
                if (phase === 'layout') assert.notDeepEqual(watches(), []);
                void client.cancelMigration({ migrationId, reason: 'a test' });
              }
              return answer;
            }),
        });
      await assert.rejects(two.migrate('busy', 'h1', 'h2', migrationId), {
        code: 'migrate.cancelled',
      });
      await says(two, { host: 'h1', name: 'busy' }, { more: 2 });
    });
  }
});
