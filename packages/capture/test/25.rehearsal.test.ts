import { strict as assert } from 'node:assert';
import { Rehearsal } from '@ferry/capture';

// A dump goes on without a rehearsal that fails: only here is it seen.
describe('rehearsal of a freeze', () => {
  it('freezes its process again and again, and leaves it as it was', () => {
    using rehearsal = Rehearsal.start();
    assert(rehearsal !== undefined, 'its program is missing: run "npm run build"');
    rehearsal.freezes(2);
    const [before] = rehearsal.once().image.processes;
    rehearsal.freezes(2);
    const [after] = rehearsal.once().image.processes;
    const tids = (threads: readonly { tid: number }[] = []) => threads.map(({ tid }) => tid);
    assert.equal(after?.threads.length, 4);
    assert.deepEqual(tids(after.threads), tids(before?.threads));
  });
});
