import type { Containers } from './containers.js';
import type { Db } from './db.js';
import type { HandOvers } from './hand-overs.js';
import type { Nodes } from './nodes.js';
import type { Notices } from './notices.js';
import type { Operations } from './operations.js';
import type { Slots } from './slots.js';

/** The controller's whole memory. */
export interface Stores {
  readonly db: Db;
  readonly notices: Notices;
  readonly operations: Operations;
  readonly containers: Containers;
  readonly nodes: Nodes;
  readonly handOvers: HandOvers;
  readonly slots: Slots;
}
