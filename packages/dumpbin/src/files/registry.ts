import type { FileEmitter } from './emit.js';

/** The emitter of each kind of file object, by its name in FileObject.kind. */
export const fileEmitters: Record<string, FileEmitter | undefined> = {};
