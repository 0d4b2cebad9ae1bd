import { strict as assert } from 'node:assert';
import { SegmentTable } from '@ferry/pages';
import type { Policy } from '../src/convergence.js';
import { CutoverTurns } from '../src/cutover-turns.js';
import { preCopy } from '../src/pre-copy.js';

const POLICY: Policy = {
  ...{ maxDowntimeMs: 50, maxRounds: 30, timeoutMs: 60_000 },
  ...{ onNoConvergence: 'stop-copy', bytesPerSecond: 0 },
};
/** Of memory that is written: pages a millisecond; the way to and fro: milliseconds; pages sent in a millisecond. */
const WRITTEN = 5;
const OVERHEAD_MS = 2;
const RATE = 50;
const PREPARE_MS = 100;

/** A source and a destination by a clock of their own. */
function world(policy: Partial<Policy> = {}) {
  let clock = 0;
  let lookedAt = 0;
  let owed = 20_000;
  const log: string[] = [];
  const answer = (report: object, pages: number) => ({
    ...{ report: report as never, image: Buffer.alloc(0), later: SegmentTable.from([]) },
    segments: SegmentTable.from(
      pages === 0
        ? []
        : [{ hostPid: 1, pid: 1, address: 4096n, targetAddress: 4096n, pages: Math.round(pages) }],
    ),
  });
  const run = () =>
    preCopy({
      questions: {
        track: async () => answer({ tracked: true, stopMs: 5, warnings: [] }, 0),
        round: async () => {
          const pages = owed + WRITTEN * (clock - lookedAt);
          owed = 0;
          lookedAt = clock;
          return answer({ round: log.length }, pages);
        },
        throttle: () => log.push('throttle'),
      },
      target: {
        makeSkeleton: async () => {},
        writeRound: async (_round, segments) => {
          clock += OVERHEAD_MS + segments.totalPages / RATE;
          log.push(`round of ${segments.totalPages}`);
        },
      },
      prepare: async () => {
        clock += PREPARE_MS;
        log.push('prepare');
      },
      ...{ policy: { ...POLICY, ...policy }, restMs: 10 },
      takeTurn: () => {
        log.push('turn');
        return new CutoverTurns().take();
      },
      told: () => {},
      signal: new AbortController().signal,
      logger: { debug() {}, info() {}, warn() {}, error() {} },
      now: () => clock,
    });
  const pagesOwed = () => owed + WRITTEN * (clock - lookedAt);
  return { run, log, pagesOwed };
}

describe('migration: rounds', () => {
  it('follow what is prepared for the cutover, until as little is owed as before', async () => {
    const { run, log, pagesOwed } = world();
    const { outcome } = await run();
    assert.equal(outcome?.decision.kind, 'cutover');
    assert.equal(log.filter((each) => each === 'prepare').length, 1);
    const after = log.slice(log.indexOf('prepare') + 1);
    assert.match(after[0]!, /^round of /);
    assert.equal(after.at(-1), 'turn');
    assert.ok(pagesOwed() < (WRITTEN * PREPARE_MS) / 4, `${pagesOwed()} pages are owed`);
  });

  it('are not more than was asked for', async () => {
    const { run, log } = world({ maxRounds: 2 });
    const { outcome } = await run();
    assert.equal(outcome?.rounds.length, 2);
    assert.deepEqual(log.slice(-2), ['prepare', 'turn']);
  });

  it('are none, and all is prepared, where memory follows', async () => {
    const { run, log } = world({ maxRounds: 0 });
    const { outcome } = await run();
    assert.equal(outcome?.decision.kind, 'post-copy');
    assert.deepEqual(log, ['prepare', 'turn']);
  });
});
