export * from './dump-tree.js';
export * from './rehearsal.js';
export * from './segments.js';
export * from './tree-capture.js';
