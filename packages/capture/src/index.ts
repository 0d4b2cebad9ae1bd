export * from './dump-tree.js';
export * from './segments.js';
export * from './tree-capture.js';
