import { ok, strictEqual } from 'node:assert';
import { LandlockDomains } from '@ferry/linux';
import { native } from '../src/native.js';

describe('Landlock domains', () => {
  it('are found in the memory of the kernel, in any thread of a process', () => {
    const domains = LandlockDomains.learn();
    ok(domains !== undefined, 'the kernel does not let its memory be read, or has no Landlock');
    strictEqual(domains.restricts(process.pid), false);
    strictEqual(domains.restricts(process.ppid), false);
    native.landlockSample(1, (tid) => {
      ok(tid > 0, `no thread: ${tid}`);
      strictEqual(domains.restricts(process.pid), true);
      strictEqual(domains.restricts(tid), true, 'by the number of a thread');
      strictEqual(domains.restricts(process.ppid), false);
    });
    strictEqual(domains.restricts(process.pid), false, 'after its thread has ended');
  });

  it('are not told of a process that is not there', () => {
    strictEqual(LandlockDomains.learn()!.restricts(4_194_305), undefined);
  });
});
