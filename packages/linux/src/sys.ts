import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { SysError } from '@ferry/core';
import { native, type SyscallArgument } from './native.js';
import { SYSCALL, type SyscallName } from './syscall-table.js';

const ERRNO_TEXT: Record<string, string> = {
  EPERM: 'not permitted',
  ENOENT: 'does not exist',
  ESRCH: 'no such process',
  EINTR: 'interrupted',
  EBADF: 'bad descriptor',
  EAGAIN: 'would block',
  ENOMEM: 'out of memory',
  EACCES: 'permission denied',
  EFAULT: 'bad address',
  EBUSY: 'busy',
  EEXIST: 'already exists',
  EINVAL: 'invalid argument',
  ENOSPC: 'no space left',
  ENOSYS: 'not implemented by this kernel',
  EOPNOTSUPP: 'not supported',
  EMFILE: 'too many open descriptors',
};

/** Makes a system call and returns what the kernel returned: a result, or -errno. Blocks the thread. */
export function sys(name: SyscallName, ...args: SyscallArgument[]): number {
  return native.syscall(SYSCALL[name], ...args);
}

/** Makes a system call that must succeed. Retries EINTR.
 *  @throws SysError with the errno's name; `target` is what the text says it was done to */
export function call(name: SyscallName, ...args: SyscallArgument[]): number {
  for (;;) {
    const result = native.syscall(SYSCALL[name], ...args);
    if (result >= 0) return result;
    if (result !== -constants.errno.EINTR) throw sysError(name, -result);
  }
}

/** A SysError from an errno number. */
export function sysError(syscall: string, errnoNumber: number, target?: string): SysError {
  const errno = errnoName(errnoNumber);
  const text = ERRNO_TEXT[errno] ?? errno;
  return new SysError({
    syscall,
    errno,
    errnoNumber,
    text,
    ...(target === undefined ? {} : { target }),
  });
}

/** `ENOENT` for 2. */
export function errnoName(errnoNumber: number): string {
  try {
    return getSystemErrorName(-errnoNumber);
  } catch {
    return `errno ${errnoNumber}`;
  }
}

/** The number of an errno by name. */
export const ERRNO = constants.errno;

/** Where a Buffer's bytes are; keep the Buffer referenced until the kernel is done with it. */
export function addressOf(buffer: Buffer): bigint {
  return native.addressOf(buffer);
}

/** XXH64 with seed 0. */
export function hash64(buffer: Buffer): bigint {
  return native.hash64(buffer);
}
