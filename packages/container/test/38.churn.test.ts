import { strict as assert } from 'node:assert';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ByteReader } from '../src/archive/byte-reader.js';
import { packChanges, unpackChanges } from '../src/archive/changes.js';
import { packTree } from '../src/archive/pack.js';
import { SentBlocks } from '../src/archive/sent-blocks.js';
import { leavingOut, type TreeState, treeChanges, treeState } from '../src/archive/tree-state.js';
import { unpackTree } from '../src/archive/unpack.js';
import { bothMapped, type Mapped, mappedInUpper } from '../src/mapped-files.js';
import { importMountChanges, importMountContent } from '../src/mount-content.js';
import { MountRounds } from '../src/mount-rounds.js';
import { mountOverlay, unmount } from '../src/overlay.js';
import { differences } from './same-trees.js';

// FERRY_SEED=n     the changes of that seed; when they meet a copy is up to the machine
// FERRY_ROUNDS=n   so many copies
const seed = Number(process.env.FERRY_SEED ?? randomInt(2 ** 31));
const ROUNDS = Number(process.env.FERRY_ROUNDS ?? (process.env.FERRY_LONG ? 150 : 10));
const MOUNTS = ['/shm', '/scratch'];
const { signal } = new AbortController();

/** Gives whoever changes the tree time between two pieces of a copy. */
async function* slowly(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    await sleep(1);
    yield chunk;
  }
}

/** Copies a tree that changes all the time, follows it, and stops it for the last look. */
interface Way {
  /** Folders that are changed, and where each of them is to be the same. */
  readonly folders: readonly (readonly [here: string, there: string])[];
  copy(): Promise<void>;
  follow(look: 'running' | 'standing'): Promise<void>;
  remove(): void;
}

describe('container: a tree that is changed without end', function () {
  this.timeout(ROUNDS * 5000);
  let base: string;
  let program: string;
  let child: ChildProcess | undefined;
  before(() => {
    base = mkdtempSync(join(tmpdir(), 'ferry-churn-'));
    program = join(base, 'churn');
    execFileSync('cc', ['-O1', '-o', program, join(import.meta.dirname, 'churn.c')]);
  });
  after(() => {
    rmSync(base, { recursive: true });
  });

  async function start(number: number, folders: readonly string[]): Promise<void> {
    const args = [String(seed + number), ...folders];
    child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout!, 'data');
  }

  async function stop(): Promise<void> {
    const { pid } = child!;
    child!.kill('SIGSTOP');
    while (!/^State:\s*T/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'))) await sleep(1);
  }

  async function end(): Promise<void> {
    const was = child;
    child = undefined;
    if (was === undefined || was.exitCode !== null || was.signalCode !== null) return;
    const ended = once(was, 'exit');
    was.kill('SIGKILL');
    await ended;
  }

  const hostPids = () => (child?.pid === undefined ? [] : [child.pid]);

  function inMemory(): Way {
    const at = (side: string) => join(base, side);
    const mounted: string[] = [];
    for (const side of ['here', 'there']) {
      for (const mount of MOUNTS) {
        const path = join(at(side), mount);
        mkdirSync(path, { recursive: true });
        execFileSync('mount', ['-t', 'tmpfs', 'none', path]);
        mounted.push(path);
      }
    }
    const rounds = new MountRounds({ root: at('here'), destinations: MOUNTS, hostPids });
    return {
      folders: MOUNTS.map((mount) => [join(at('here'), mount), join(at('there'), mount)] as const),
      copy: () => importMountContent(at('there'), MOUNTS, slowly(rounds.copy(signal))),
      follow: (look) =>
        importMountChanges(at('there'), MOUNTS, slowly(rounds.changes(look, signal))),
      remove: () => {
        rounds[Symbol.dispose]();
        for (const path of mounted) unmount(path);
      },
    };
  }

  /** As SourceWork does it. */
  async function writableLayer(): Promise<Way> {
    const disk = join(base, 'disk');
    const at = (...path: string[]) => join(disk, ...path);
    mkdirSync(at('lower/d0/d2'), { recursive: true });
    for (const name of ['f0', 'f1', 'd0/f0', 'd0/d2/f1', 'd0/s0']) {
      writeFileSync(at('lower', name), name);
    }
    const mount = (side: string) => {
      const own = (name: string) => at(side, name);
      const places = { upper: own('upper'), work: own('work'), merged: own('merged') };
      return mountOverlay({ ...places, lower: [at('lower')] });
    };
    await mount('here');
    const upper = at('here/upper');
    const mapped = async () => mappedInUpper(hostPids(), { upper, merged: at('here/merged') });
    const sent = new SentBlocks();
    let state: TreeState = new Map();
    let wasMapped: Mapped = new Set();
    return {
      folders: [[at('here/merged'), at('there/merged')]],
      copy: async () => {
        const before = await mapped();
        const looked = await treeState(upper);
        const out: string[] = [];
        const leftOut = (path: string) => out.push(path);
        mkdirSync(at('there/upper'), { recursive: true });
        const reader = new ByteReader(slowly(packTree(upper, { signal, sent, leftOut, looked })));
        await unpackTree(at('there/upper'), reader);
        state = leavingOut(looked, out);
        wasMapped = bothMapped(before, await mapped());
        await mount('there');
      },
      follow: async () => {
        const nowMapped = await mapped();
        const either = bothMapped(wasMapped, nowMapped);
        const looked = await treeState(upper);
        sent.keepOnly(looked);
        const doubtful = (inode: bigint) => either === 'any' || either.has(inode);
        const changes = treeChanges(state, looked, { doubtful });
        const out: string[] = [];
        const leftOut = (path: string) => out.push(path);
        const options = { signal, sent, leftOut, looked };
        await unpackChanges(at('there/merged'), slowly(packChanges(upper, changes, options)));
        state = leavingOut(looked, out);
        wasMapped = bothMapped(nowMapped, await mapped());
      },
      remove: () => {
        for (const path of ['here/merged', 'there/merged']) unmount(at(path));
        rmSync(disk, { recursive: true });
      },
    };
  }

  for (const [what, make] of [
    ['tmpfs mounts', inMemory],
    ['a writable layer', writableLayer],
  ] as const) {
    it(`${what}: the copy is the same once it stands`, async () => {
      for (let number = 0; number < ROUNDS; number++) {
        const hint = `FERRY_SEED=${seed + number} FERRY_ROUNDS=1`;
        const way = await make();
        try {
          await start(
            number,
            way.folders.map(([here]) => here),
          );
          await way.copy();
          for (let looks = number % 4; looks > 0; looks--) await way.follow('running');
          await stop();
          await way.follow('standing');
          for (const [here, there] of way.folders) {
            assert.deepEqual(differences(here, there), [], hint);
          }
        } catch (error) {
          (error as Error).message += ` (${hint})`;
          throw error;
        } finally {
          await end();
          way.remove();
        }
      }
    });
  }
});
