import { FerryError } from '@ferry/core';
import type { SegmentTable } from '@ferry/pages';
import {
  type Decision,
  decide,
  nextCpuShare,
  type Policy,
  type Prediction,
  type Round,
} from './convergence.js';
import type { Turn } from './cutover-turns.js';
import type { Logger } from './logger.js';
import type { SourceQuestions } from './source-questions.js';

/** Where the rounds go. */
export interface RoundTarget {
  /** Processes with the layout of this image that wait, writable.
   *  @throws FerryError dumpbin.*, restore.failed */
  makeSkeleton(image: Buffer): Promise<void>;
  /** Pulls the pages of a round and writes them; returns when all are in place. */
  writeRound(round: number, segments: SegmentTable): Promise<void>;
}

/** How a live migration's rounds went. */
export interface PreCopyOutcome {
  readonly rounds: readonly Round[];
  readonly decision: Decision;
  /** For how long the container stood for its layout. */
  readonly stopMs: number;
  /** Hundredths of its CPU time that the container was left with at last; undefined: all. */
  readonly cpuShare: number | undefined;
}

interface Parameters {
  readonly questions: Pick<SourceQuestions, 'track' | 'round' | 'throttle'>;
  readonly target: RoundTarget;
  readonly policy: Policy;
  /** What a cutover takes besides stopping and the last pages. */
  readonly restMs: number;
  /** This container's among the cutovers to this host. Queued up for once it is ready. */
  readonly takeTurn: () => Turn;
  /** What is to be done before the cutover and need not be done in it. Takes some milliseconds, in which memory changes. */
  readonly prepare: () => Promise<void>;
  /** After each round: what is known by then. */
  readonly told: (rounds: readonly Round[], prediction: Prediction) => void;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** The first round after a throttle brings what was written before it. */
const ROUNDS_TO_SETTLE = 2;
/** While others cut over what it writes is followed, so that little is owed when its turn comes. */
const FOLLOW_MS = 100;
/** For one's turn; then it is not waited for any more. */
const FOLLOWS_MAX = 100;

/** Moves memory while the container runs, until a cutover is worth it.
 *  @returns undefined when the source cannot note writes: then nothing was moved; and its warnings
 *  @throws FerryError migrate.noConvergence when the policy says so */
export async function preCopy(
  p: Parameters,
): Promise<{ outcome: PreCopyOutcome | undefined; warnings: readonly string[] }> {
  const startedAt = p.now();
  const { report, image } = await p.questions.track();
  const { tracked, stopMs, warnings } = report;
  if (!tracked) return { outcome: undefined, warnings };
  await p.target.makeSkeleton(image);
  const rounds: Round[] = [];
  let lookedAt = p.now();
  let cpuShare: number | undefined;
  /** Rounds to be made before it shows what a throttle has brought. */
  let unsettled = 0;
  let prepared = false;
  const makeRound = async (): Promise<void> => {
    const from = p.now();
    const answer = await p.questions.round();
    if (answer.segments.count > 0) {
      await p.target.writeRound(answer.report.round, answer.segments);
    }
    rounds.push({
      pages: answer.segments.totalPages,
      ms: p.now() - from,
      sinceMs: from - lookedAt,
    });
    lookedAt = from;
  };
  for (;;) {
    p.signal.throwIfAborted();
    const course = {
      rounds,
      elapsedMs: p.now() - startedAt,
      fixedMs: stopMs + p.restMs,
      cpuShare,
    };
    const decision = decide(course, p.policy);
    p.told(rounds, decision.prediction);
    p.logger.debug('round', { rounds: rounds.length, last: rounds.at(-1), decision });
    if (decision.kind === 'give-up') throw noConvergence(decision);
    unsettled -= 1;
    if (decision.kind === 'throttle' && unsettled < 0) {
      cpuShare = nextCpuShare(cpuShare) ?? cpuShare;
      p.questions.throttle(cpuShare ?? 100);
      p.logger.info('the container is slowed down', { cpuShare });
      unsettled = ROUNDS_TO_SETTLE;
    } else if (decision.kind !== 'round' && decision.kind !== 'throttle') {
      // What is written meanwhile is for further rounds, as many as it takes until little is owed again.
      const roundsLeft = rounds.length < p.policy.maxRounds;
      if (!prepared) await p.prepare();
      if (!prepared && roundsLeft && decision.kind === 'cutover') {
        prepared = true;
        await makeRound();
        continue;
      }
      await awaitTurn(p, rounds.length === 0 ? async () => {} : makeRound);
      return { outcome: { rounds, decision, stopMs, cpuShare }, warnings };
    }
    await makeRound();
  }
}

/** Returns when this container may be stopped. One that had to wait is followed. */
async function awaitTurn(
  { takeTurn, signal }: Parameters,
  follow: () => Promise<void>,
): Promise<void> {
  const turn = takeTurn();
  if (await turn.within(0)) return;
  for (let i = 0; i < FOLLOWS_MAX; i += 1) {
    signal.throwIfAborted();
    const mine = await turn.within(FOLLOW_MS);
    await follow();
    if (mine) return;
  }
}

function noConvergence({ prediction, reason }: Decision): FerryError {
  const ms = Math.round(prediction.downtimeMs);
  return new FerryError('migrate.noConvergence', `The downtime would be ${ms} ms: ${reason}`, {
    remedy:
      'the container runs on; allow more with --max-downtime, or choose --on-no-convergence throttle or stop-copy',
  });
}
