export * from './fd.js';
export type { SyscallArgument } from './native.js';
export * from './sys.js';
export * from './syscall-table.js';
