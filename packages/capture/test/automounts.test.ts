import assert from 'node:assert/strict';
import { isAutomounted, waitingMounts } from '../src/namespaces/automounts.js';
import { parseMountInfo } from '../src/namespaces/mountinfo.js';
import { ownMounts } from '../src/namespaces/own-mounts.js';

const ROOT = '1 0 8:1 / / rw - ext4 /dev/sda1 rw';
const DIRECT = '2 1 0:40 / /auto rw - autofs daemon rw,fd=5,direct';
const COVER = '3 2 0:41 / /auto rw - nfs server:/x rw';
const INDIRECT = '4 1 0:42 / /home rw - autofs daemon rw,fd=6,indirect';
const BELOW = '5 4 0:43 / /home/joe rw - nfs server:/joe rw';

const table = (...lines: string[]) => parseMountInfo(lines.join('\n'));

describe('mounts that wait to be looked at', () => {
  const waiting = (own: string[], outside: string[]) =>
    waitingMounts(table(...own), table(...outside)).map(({ mountpoint }) => mountpoint);

  it('are those of autofs that were made inside', () => {
    assert.deepEqual(waiting([ROOT, DIRECT], [ROOT]), ['/auto']);
    assert.deepEqual(waiting([ROOT, DIRECT, COVER], [ROOT]), ['/auto']);
    assert.deepEqual(waiting([ROOT, INDIRECT], [ROOT]), ['/home']);
  });

  it('are taken from outside where something was mounted for them, or where their root does not wait', () => {
    assert.deepEqual(waiting([ROOT, DIRECT], [ROOT, DIRECT]), ['/auto']);
    assert.deepEqual(waiting([ROOT, DIRECT], [ROOT, DIRECT, COVER]), []);
    assert.deepEqual(waiting([ROOT, INDIRECT], [ROOT, INDIRECT]), []);
  });

  it('wait on every way that leads through them', () => {
    const lines = table(ROOT, DIRECT, INDIRECT, BELOW);
    const ways = ['/', '/auto', '/auto/x', '/automatic', '/home', '/home/jim', '/home/joe/x'];
    assert.deepEqual(
      ways.filter((path) => isAutomounted(path, lines)),
      ['/auto', '/auto/x', '/home/jim'],
    );
    assert.equal(isAutomounted('/auto/x', table(ROOT, DIRECT, COVER)), false);
  });
});

describe('mounts of a mount namespace that did not come with it', () => {
  const own = (lines: string[], outside: string[]) => [
    ...ownMounts(table(...lines), table(...outside)),
  ];
  const NAME = '7 1 0:4 net:[40] /run/a rw - nsfs nsfs rw';
  const RUN = '6 1 0:30 / /run rw - tmpfs run rw';
  const BOUND = '8 1 8:1 /x /y rw - ext4 /dev/sda1 rw';

  it('stand behind all that is outside at the same place', () => {
    assert.deepEqual(own([ROOT, NAME, RUN], [ROOT, RUN]), []);
    assert.deepEqual(own([ROOT, RUN, NAME], [ROOT, RUN]), [7]);
    assert.deepEqual(own([ROOT, RUN, NAME, BOUND], [ROOT, RUN]), [7, 8]);
  });

  it('stand behind all whose files are mounted outside, when the root is another', () => {
    const pivoted = ['9 0 0:50 / / rw - tmpfs new rw', NAME];
    assert.deepEqual(own(pivoted, [ROOT, RUN]), [9, 7]);
    assert.deepEqual(own([...pivoted, BOUND.replace('/x /y', '/x /z')], [ROOT, RUN, BOUND]), []);
  });
});
