import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FerryError } from '@ferry/core';
import type { DestinationAction } from './destination-machine.js';
import type { SourceAction } from './source-machine.js';

export type FaultPoint = `${'source' | 'destination'}.${'before' | 'after'}.${string}`;

/** How a migration goes that a test harms: as it should; or one of its steps fails first, so that it is rolled back by its
 *  source, by its destination, or given back after COMMIT; or it runs at its destination before its memory is there
 *  (post-copy). */
export type FaultPath =
  | 'done'
  | 'source gives up'
  | 'destination gives up'
  | 'given back'
  | 'memory follows';

interface Place {
  readonly path: FaultPath;
  readonly point: FaultPoint;
}

/** The step that fails, for the migration to take that path. */
export const failingPoints: Readonly<Record<FaultPath, FaultPoint | undefined>> = {
  done: undefined,
  'source gives up': 'source.before.commit',
  'destination gives up': 'destination.before.copy',
  'given back': 'destination.before.recordGrant',
  'memory follows': undefined,
};

/** Steps in between that are not the machines': memory that was asked for is given and taken; all of it is there, which
 *  is written down. */
type Between = 'givePages' | 'takePages' | 'recordWhole';

const sourceActions = {
  done: ['describe', 'track', 'round', 'freeze', 'commit', 'grant', 'destroy', 'tellDone'],
  'source gives up': ['thaw', 'tellAbort'],
  'destination gives up': ['thaw'],
  'given back': ['recordReturn', 'thaw'],
  'memory follows': ['commit', 'grant', 'givePages', 'destroy', 'tellDone'],
} as const satisfies Record<FaultPath, readonly (SourceAction | Between)[]>;
const destinationActions = {
  done: [
    ...(['record', 'prepare', 'copy', 'askFreeze', 'restore', 'tellReady', 'recordGrant'] as const),
    ...(['resume', 'tellResumed', 'complete', 'recordEnd'] as const),
  ],
  'source gives up': ['clean', 'recordEnd'],
  'destination gives up': ['clean', 'recordEnd'],
  'given back': ['clean', 'tellAbandoned'],
  'memory follows': [
    ...(['recordGrant', 'resume', 'tellRunning', 'complete', 'fetch', 'takePages'] as const),
    ...(['recordWhole', 'tellResumed', 'recordEnd'] as const),
  ],
} as const satisfies Record<FaultPath, readonly (DestinationAction | Between)[]>;

/** The places of a migration at which a test may hold an agent, to do harm to it or to what it relies on just then: for
 *  each action of either machine before it is begun, and after it was done and before anything follows from it. */
export const faultPlaces: readonly Place[] = (Object.keys(failingPoints) as FaultPath[]).flatMap(
  (path) => [
    ...sourceActions[path].flatMap((action) => bothSides(path, 'source', action)),
    ...destinationActions[path].flatMap((action) => bothSides(path, 'destination', action)),
  ],
);

function bothSides(path: FaultPath, side: 'source' | 'destination', action: string): Place[] {
  const points: FaultPoint[] = [`${side}.before.${action}`, `${side}.after.${action}`];
  return points.map((point) => ({ path, point }));
}

/** Where a test arms points, never set outside of tests. FOLDER/at.POINT: the agent that first comes there writes
 *  FOLDER/reached, and goes on when there is FOLDER/go. FOLDER/fail.POINT: the step fails, once. */
const folder = process.env.FERRY_FAULT_DIR;
const LOOK_MS = 5;

/** Waits or fails at a point, where a test has asked for it.
 *  @throws FerryError test.fault */
export async function faultPoint(point: FaultPoint): Promise<void> {
  if (folder !== undefined) await arrive(folder, point);
}

async function arrive(dir: string, point: FaultPoint): Promise<void> {
  if (existsSync(join(dir, `at.${point}`)) && !existsSync(join(dir, 'reached'))) {
    writeFileSync(join(dir, 'reached'), String(process.pid));
    while (!existsSync(join(dir, 'go'))) await sleep(LOOK_MS);
  }
  if (!existsSync(join(dir, `fail.${point}`))) return;
  rmSync(join(dir, `fail.${point}`), { force: true });
  throw new FerryError('test.fault', `${point} was told to fail`);
}
