import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import type { SourceMessage } from '@ferry/api';
import { changed, FaultyPort } from './support/faulty-port.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

/** Of each kind of memory. */
const PAGES = 2048;
const PROCESSES = 4;

describe('agent: shared memory that is written while it moves', function () {
  this.timeout(400_000);
  let two: TwoAgents;
  let moves = 0;
  let bytesOf: Map<string, bigint>;
  // The plain one writes so slowly that it matters little how long a round takes on a busy machine.
  before(async () => {
    two = await TwoAgents.start();
    const sharing = join(two.folder.path, 'sharing');
    const source = join(import.meta.dirname, 'support/sharing.c');
    execFileSync('cc', ['-O2', '-o', sharing, source]);
    const rootfs = await two.rootfs([sharing]);
    for (const [name, pauseUs] of [
      ['plain', 20_000],
      ['odd', 200],
    ] as const) {
      const args = [sharing, String(PAGES), name, String(pauseUs)];
      await two.run('h1', { name, rootfs, args });
      await intact('h1', name);
    }
    two.wrapSource = (port) => new FaultyPort(port, { session: (answers) => noted(answers) });
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  /** Notes how many bytes each list of pages announces. */
  function noted(answers: AsyncIterable<SourceMessage>) {
    bytesOf = new Map();
    return changed<SourceMessage>(answers, (answer) => {
      const { message } = answer;
      if (message?.$case === 'round') {
        bytesOf.set(`round ${message.value.round}`, message.value.pagesBytes);
      }
      if (message?.$case === 'frozen') bytesOf.set('frozen', message.value.pagesBytes);
      return answer;
    });
  }

  /** Waits until each process has compared all of its pages again, and found none damaged. */
  async function intact(host: HostName, name: string): Promise<void> {
    const read = async () => {
      const counts = new Map<string, number>();
      for await (const { line } of two.at(host).agent.host.readLog(name)) {
        assert.doesNotMatch(line, /^damaged/);
        const who = /^intact (\d+)/.exec(line)?.[1];
        if (who !== undefined) counts.set(who, (counts.get(who) ?? 0) + 1);
      }
      return counts;
    };
    const before = await read();
    for (let i = 0; i < 600; i += 1) {
      const now = await read();
      const all = [...now].filter(([who, count]) => count > (before.get(who) ?? 0) + 1);
      if (all.length === PROCESSES) return;
      await new Promise((done) => setTimeout(done, 100));
    }
    throw new Error(`${name} on ${host} stands still`);
  }

  async function move(name: string, from: HostName, to: HostName) {
    moves += 1;
    const result = await two.migrate(name, from, to, `shared-${moves}`, {
      timeoutMs: 180_000,
    });
    assert.equal(result.mode, 'pre-copy', result.warnings.join('; '));
    return result;
  }

  const route: [HostName, HostName][] = [
    ['h1', 'h2'],
    ['h2', 'h1'],
    ['h1', 'h2'],
  ];

  it('comes in rounds, once for all processes, and nearly nothing of it in the freeze', async () => {
    for (const [from, to] of route) {
      await move('plain', from, to);
      const most = BigInt(PAGES * 4096);
      const first = bytesOf.get('round 1') ?? 0n;
      assert(first >= 3n * most && first < 4n * most, `${first} bytes in the first round`);
      const rounds = [...bytesOf.keys()].filter((key) => key !== 'frozen');
      const last = (bytesOf.get('frozen') ?? 0n) + (bytesOf.get(rounds.at(-1)!) ?? 0n);
      // The memfd may be doubtful as a whole: where its reader was too busy to take what it had printed, the container ran
      // on for a moment after the last round.
      assert(last < (most * 3n) / 2n, `${last} bytes while it stood`);
      await intact(to, 'plain');
    }
  });

  it('loses no write that the page tables do not tell of', async () => {
    for (const [from, to] of route) {
      await move('odd', from, to);
      await intact(to, 'odd');
    }
  });
});
