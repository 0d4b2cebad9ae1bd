import { strict as assert } from 'node:assert';
import {
  type Course,
  CPU_STEPS,
  type Decision,
  decide,
  nextCpuShare,
  type Policy,
  predict,
  type Round,
} from '../src/convergence.js';

const policy: Policy = {
  maxDowntimeMs: 50,
  maxRounds: 30,
  timeoutMs: 60_000,
  onNoConvergence: 'throttle',
  bytesPerSecond: 0,
};
const round = (pages: number, ms: number, sinceMs: number): Round => ({ pages, ms, sinceMs });
const FIRST = round(100_000, 1000, 1);

interface Row {
  readonly name: string;
  readonly rounds: readonly Round[];
  readonly course?: Partial<Course>;
  readonly policy?: Partial<Policy>;
  readonly kind: Decision['kind'];
}

const rows: readonly Row[] = [
  { name: 'begins with a round', rounds: [], kind: 'round' },
  { name: 'does not know a rate after one round', rounds: [FIRST], kind: 'round' },
  {
    name: 'takes one round as asked',
    rounds: [FIRST],
    policy: { maxRounds: 1 },
    kind: 'cutover',
  },
  {
    name: 'cuts over when nothing changes',
    rounds: [FIRST, round(0, 3, 1000)],
    kind: 'cutover',
  },
  {
    name: 'cuts over within the bound when another round would be no shorter',
    rounds: [FIRST, round(2000, 25, 1000)],
    policy: { maxDowntimeMs: 500 },
    course: { fixedMs: 10 },
    kind: 'cutover',
  },
  {
    name: 'makes a round when many pages are owed and the next one is shorter by far',
    rounds: [FIRST, round(20_000, 200, 1000)],
    policy: { maxDowntimeMs: 80 },
    kind: 'round',
  },
  {
    name: 'goes on while rounds get shorter',
    rounds: [FIRST, round(60_000, 600, 1000), round(36_000, 360, 600)],
    kind: 'round',
  },
  {
    name: 'slows down what changes as fast as it is sent',
    rounds: [FIRST, round(95_000, 950, 1000), round(93_000, 930, 950)],
    kind: 'throttle',
  },
  {
    name: 'slows down further',
    rounds: [FIRST, round(95_000, 950, 1000), round(93_000, 930, 950)],
    course: { cpuShare: 20 },
    kind: 'throttle',
  },
  {
    name: 'cuts over when no slower is possible',
    rounds: [FIRST, round(95_000, 950, 1000), round(93_000, 930, 950)],
    course: { cpuShare: CPU_STEPS.at(-1)! },
    kind: 'cutover',
  },
  {
    name: 'stops and copies as asked',
    rounds: [FIRST, round(95_000, 950, 1000), round(93_000, 930, 950)],
    policy: { onNoConvergence: 'stop-copy' },
    kind: 'cutover',
  },
  {
    name: 'gives up as asked',
    rounds: [FIRST, round(95_000, 950, 1000), round(93_000, 930, 950)],
    policy: { onNoConvergence: 'abort' },
    kind: 'give-up',
  },
  {
    name: 'lets the destination fetch the rest as asked',
    rounds: [FIRST, round(95_000, 950, 1000), round(93_000, 930, 950)],
    policy: { onNoConvergence: 'post-copy' },
    kind: 'post-copy',
  },
  {
    name: 'keeps the bound of rounds, though they get shorter',
    rounds: [FIRST, round(60_000, 600, 1000), round(36_000, 360, 600)],
    policy: { maxRounds: 3, onNoConvergence: 'abort' },
    kind: 'give-up',
  },
  {
    name: 'keeps the bound of time',
    rounds: [FIRST, round(60_000, 600, 1000), round(36_000, 360, 600)],
    course: { elapsedMs: 60_001 },
    policy: { onNoConvergence: 'stop-copy' },
    kind: 'cutover',
  },
  {
    name: 'does not slow down once the time is over',
    rounds: [FIRST, round(95_000, 950, 1000), round(93_000, 930, 950)],
    course: { elapsedMs: 60_001 },
    kind: 'cutover',
  },
  {
    name: 'cuts over when only the stop itself is too long',
    rounds: [FIRST, round(100, 5, 1000)],
    course: { fixedMs: 400 },
    policy: { onNoConvergence: 'abort' },
    kind: 'cutover',
  },
];

const courseOf = (row: Pick<Row, 'rounds' | 'course'>): Course => ({
  rounds: row.rounds,
  elapsedMs: row.rounds.reduce((sum, { ms }) => sum + ms, 0),
  fixedMs: 15,
  cpuShare: undefined,
  ...row.course,
});

describe('migration: convergence', () => {
  for (const row of rows) {
    it(row.name, () => {
      const decision = decide(courseOf(row), { ...policy, ...row.policy });
      assert.equal(decision.kind, row.kind, decision.reason);
    });
  }

  it('predicts the downtime from what changes while a round is sent', () => {
    // 100 pages a millisecond are sent; 10 a millisecond change, for 500 ms.
    const rounds = [FIRST, round(10_000, 500, 1000)];
    const prediction = predict(courseOf({ rounds }));
    assert.equal(prediction.downtimeMs, 15 + 5000 / 100);
    assert.equal(prediction.dirtyBytesPerSecond, 10_000 * 4096);
    assert.equal(prediction.sentBytesPerSecond, 100_000 * 4096);
    assert.equal(prediction.bytes, (110_000 + 5000) * 4096);
  });

  it('ends for every course: no program can keep it in rounds for ever', () => {
    for (let growth = 0.5; growth <= 1.5; growth += 0.05) {
      const rounds: Round[] = [FIRST];
      let cpuShare: number | undefined;
      let steps = 0;
      for (;;) {
        const { kind } = decide(courseOf({ rounds, course: { cpuShare } }), policy);
        steps += 1;
        assert(steps < 100, `growth ${growth} does not end`);
        if (kind === 'throttle') cpuShare = nextCpuShare(cpuShare);
        else if (kind !== 'round') break;
        const last = rounds.at(-1)!;
        const pages = Math.ceil(last.pages * growth);
        rounds.push(round(pages, Math.max(2, pages / 100), last.ms));
      }
    }
  });
});
