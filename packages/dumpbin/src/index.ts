export * from './compile.js';
export type { CompiledDump } from './draft.js';
export * from './dump-file.js';
export {
  isCanonical,
  stopLetter,
  transparentSettings,
  typedBytes,
  unusedLetter,
} from './files/terminal-settings.js';
export * from './layout.js';
export * from './layout-difference.js';
export * from './link.js';
export type { PageRead } from './memory-steps.js';
export {
  compileFinish,
  compileRefresh,
  type NextOptions,
  skeletonFits,
  type VanishedPages,
} from './next-programs.js';
export * from './program.js';
export * from './restorer.js';
export * from './sigframe.js';
export {
  compileSkeleton,
  type Skeleton,
  type SkeletonPrograms,
  type StorePart,
} from './skeleton.js';
export { type TreeDifference, treeDifference } from './tree-difference.js';
export { planTree } from './tree-plan.js';
