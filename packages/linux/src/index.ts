export * from './fd.js';
export type { SyscallArgument } from './native.js';
export * from './sys.js';
export * from './syscall-table.js';
export * from './pagemap.js';
export * from './proc.js';
export * from './ptrace.js';
export * from './read.js';
export * from './page-io.js';
