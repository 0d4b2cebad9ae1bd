export * from './compile.js';
export * from './dump-file.js';
export * from './layout.js';
export * from './link.js';
export type { PageRead } from './memory-steps.js';
export * from './program.js';
export * from './restorer.js';
export * from './sigframe.js';
