import { deepStrictEqual } from 'node:assert';
import { writeFileSync } from 'node:fs';
import { call, inFreshNamespace } from '@ferry/linux';
import { fleetingSegments } from '../src/sysv-ipc.js';

const IPC_CREAT = 0o1000;
const IPC_RMID = 0;

describe('System V segments that go with whoever reads them', () => {
  it('are those that nobody has attached while kernel.shm_rmid_forced is set', () => {
    const found = inFreshNamespace('ipc', () => {
      const id = call('shmget', 0, 4096, IPC_CREAT | 0o600);
      const usual = fleetingSegments();
      writeFileSync('/proc/sys/kernel/shm_rmid_forced', '1');
      const forced = fleetingSegments();
      const address = BigInt(call('shmat', id, 0, 0));
      const attached = fleetingSegments();
      call('shmctl', id, IPC_RMID, 0);
      call('shmdt', address);
      return { usual, forced, attached };
    });
    deepStrictEqual(found, { usual: [], forced: [0], attached: [] });
  });
});
