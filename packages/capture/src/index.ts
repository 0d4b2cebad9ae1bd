export * from './dump-tree.js';
export type { GivenMount } from './namespaces/added-mounts.js';
export type { GivenNetwork } from './namespaces/given-network.js';
export * from './rehearsal.js';
export type { TreeLabels } from './security-labels.js';
export * from './segments.js';
export * from './tree-capture.js';
