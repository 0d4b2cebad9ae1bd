import { fromErrorDetail, type Prediction } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { type DestinationState, isCancellable } from './destination-machine.js';
import type { PreCopyOutcome } from './pre-copy.js';

/** What is to be said of a migration at its destination, and what its source's words mean. Pure. */

/** Its container stands, and each millisecond counts. */
export function isCuttingOver({ phase, silent }: DestinationState): boolean {
  const standing = ['freezing', 'restoring', 'asking', 'accepting', 'resuming'];
  return silent !== true && standing.includes(phase);
}

export function runsHere({ phase }: DestinationState): boolean {
  return phase === 'succeeded' || phase === 'reporting';
}

/** How the copy here stands, for MigrationStatus. */
export function copyOf(state: DestinationState): string {
  const { phase } = state;
  if (runsHere(state)) return 'runs';
  if (phase === 'asking') return 'ready';
  if (phase === 'accepting' || phase === 'resuming' || phase === 'fetching') return 'runs';
  return phase === 'inDoubt' ? 'lost' : 'none';
}

/** How the migration stands, for MigrationStatus. */
export function stateNameOf({ phase, error, silent, unbegun }: DestinationState): string {
  switch (phase) {
    case 'succeeded':
      return 'succeeded';
    case 'failed':
      if (unbegun === true) return 'refused';
      return codeOf(error) === 'migrate.cancelled' ? 'cancelled' : 'failed';
    case 'inDoubt':
      return 'in-doubt';
    case 'asking':
    case 'givingBack':
      return silent === true ? 'in-doubt' : 'running';
    case 'accepting':
    case 'resuming':
    case 'fetching':
      return 'committed';
    case 'reporting':
      return silent === true ? 'succeeded' : 'committed';
    default:
      return 'running';
  }
}

export function predicted(outcome: PreCopyOutcome | undefined): Prediction | undefined {
  if (outcome === undefined) return undefined;
  const { prediction } = outcome.decision;
  return { ...prediction, bytes: BigInt(prediction.bytes) };
}

/** How its memory moved. */
export function modeOf(outcome: PreCopyOutcome | undefined, followed: boolean): string {
  const rounds = outcome?.rounds.length ?? 0;
  if (followed) return rounds === 0 ? 'post-copy' : 'hybrid';
  return outcome === undefined ? 'stop-copy' : 'pre-copy';
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : '';
}

/** Answers that say that the source has not granted this migration and never will. */
const FINAL_WORDS = ['migrate.unknown', 'migrate.cancelled', 'migrate.epoch', 'migrate.aborted'];

/** An error with which the source's agent itself answered. While nothing is decided any refusal ends it; once the source
 *  may have committed only its word about this migration does: "busy", "not allowed" or a broken line is none. */
export function isWordOfSource(error: unknown, phase: DestinationState['phase']): boolean {
  const code = codeOf(error);
  if (!isCancellable(phase)) {
    return FINAL_WORDS.includes(code);
  }
  return code !== '' && !/^(rpc|host|migrate\.lost)/.test(code) && code !== 'internal';
}

/** Why the source gave up. */
export function errorOf(detail: Parameters<typeof fromErrorDetail>[0] | undefined): Error {
  return detail === undefined
    ? new FerryError('migrate.aborted', 'The source gave up')
    : fromErrorDetail(detail);
}
