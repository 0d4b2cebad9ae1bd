import type { MigrationPolicy } from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { NoConvergence, Policy } from './convergence.js';
import type { MigrationMode } from './destination-work.js';

const MODES: readonly MigrationMode[] = ['auto', 'stop-copy', 'pre-copy', 'hybrid', 'post-copy'];
const WAYS: readonly NoConvergence[] = ['throttle', 'post-copy', 'stop-copy', 'abort'];

/** What holds when a user wishes nothing else. */
export const defaultPolicy: Policy = {
  maxDowntimeMs: 50,
  maxRounds: 30,
  timeoutMs: 120_000,
  onNoConvergence: 'throttle',
  bytesPerSecond: 0,
};

/** @throws FerryError migrate.mode */
export function parseMode(mode: string): MigrationMode {
  const known = MODES.find((name) => name === (mode === '' ? 'auto' : mode));
  if (known !== undefined) return known;
  throw new FerryError('migrate.mode', `Mode "${mode}" is not known to this agent`, {
    remedy: `use ${MODES.join(', ')}`,
  });
}

/** @throws FerryError migrate.policy */
export function parsePolicy(policy: MigrationPolicy | undefined): Policy {
  const { maxDowntimeMs = 0, maxRounds = 0, roundsTimeoutMs = 0 } = policy ?? {};
  const way = policy?.onNoConvergence ?? '';
  const onNoConvergence = WAYS.find((name) => name === way);
  if (way !== '' && onNoConvergence === undefined) {
    throw new FerryError('migrate.policy', `"${way}" is no way to go on without convergence`, {
      remedy: `use ${WAYS.join(', ')}`,
    });
  }
  return {
    maxDowntimeMs: maxDowntimeMs || defaultPolicy.maxDowntimeMs,
    maxRounds: maxRounds || defaultPolicy.maxRounds,
    timeoutMs: roundsTimeoutMs || defaultPolicy.timeoutMs,
    onNoConvergence: onNoConvergence ?? defaultPolicy.onNoConvergence,
    bytesPerSecond: Number(policy?.bandwidthBytesPerSecond ?? 0n),
  };
}
