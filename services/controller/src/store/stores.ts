import type { Containers } from './containers.js';
import type { Db } from './db.js';
import type { Nodes } from './nodes.js';
import type { Notices } from './notices.js';
import type { Operations } from './operations.js';

/** The controller's whole memory. */
export interface Stores {
  readonly db: Db;
  readonly notices: Notices;
  readonly operations: Operations;
  readonly containers: Containers;
  readonly nodes: Nodes;
}
