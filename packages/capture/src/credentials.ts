import type { Credentials } from '@ferry/image';
import type { ProcStatus } from '@ferry/linux';

/** Credentials of one thread, from its /proc/PID/task/TID/status and its own securebits. */
export function credentialsOf(status: Pick<ProcStatus, 'get'>, securebits: number): Credentials {
  const numbers = (name: string): number[] =>
    (status.get(name) ?? '')
      .split(/\s+/)
      .filter((word) => word !== '')
      .map(Number);
  const mask = (name: string): bigint => BigInt(`0x${status.get(name) ?? '0'}`);
  const [uid, euid, suid, fsuid] = numbers('Uid') as [number, number, number, number];
  const [gid, egid, sgid, fsgid] = numbers('Gid') as [number, number, number, number];
  return {
    uid,
    euid,
    suid,
    fsuid,
    gid,
    egid,
    sgid,
    fsgid,
    groups: numbers('Groups'),
    capInheritable: mask('CapInh'),
    capPermitted: mask('CapPrm'),
    capEffective: mask('CapEff'),
    capBounding: mask('CapBnd'),
    capAmbient: mask('CapAmb'),
    securebits,
    noNewPrivs: status.get('NoNewPrivs') === '1',
  };
}
