export { readCheckpointManifest, restoreCheckpoint, writeCheckpoint } from './checkpoint.js';
export { containerMessage, runSpec, specMessage } from './container-message.js';
export { CutoverHistory } from './cutover-history.js';
export { CutoverTurns } from './cutover-turns.js';
export { describe, type SourceHost } from './describe.js';
export { DestinationSession } from './destination-session.js';
export { type FaultPoint, faultPlaces, faultPoint } from './fault-points.js';
export { findCopy } from './found-copy.js';
export { readBootId, readHostFacts, readResources, readVdsoHash } from './host-facts.js';
export { Journal, type JournalEntry } from './journal.js';
export { Loader, loaderCommand, loaderProgram } from './loader.js';
export type { Logger } from './logger.js';
export { parseMode, parsePolicy } from './migration-wishes.js';
export { type DestinationHost, preflight } from './offer.js';
export { opening } from './opening.js';
export { Pacer } from './pacer.js';
export { ProgressReporter } from './progress.js';
export { RestoreWork } from './restore-work.js';
export {
  isSealed,
  newSealKey,
  parseSealKey,
  publicHalf,
  SealedReader,
  SealedWriter,
} from './sealed-file.js';
export { isHeld } from './source-machine.js';
export type { SourcePort, StateRequest } from './source-port.js';
export { SourceSession } from './source-session.js';
export { SourceWork } from './source-work.js';
export type { TracerCommand } from './tracer.js';
export { serveAgent } from './tracer-server.js';
export { Tracers } from './tracers.js';
