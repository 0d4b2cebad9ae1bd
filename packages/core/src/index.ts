export * from './blocker.js';
export * from './dispose-stack.js';
export * from './errors.js';
export * from './ferry-root.js';
