import assert from 'node:assert/strict';
import { IdMap, type TreeImage, useInnerIds } from '../src/index.js';

describe('ids in a user namespace', () => {
  const users = new IdMap('         0     100000      65536\n     65536       1000          1\n');
  const groups = new IdMap('0 200000 10');

  it('are found in the range that has them', () => {
    assert.equal(users.inner(100_000), 0);
    assert.equal(users.inner(165_535), 65_535);
    assert.equal(users.inner(1000), 65_536);
  });

  it('are not found outside of every range', () => {
    assert.equal(users.inner(0), undefined);
    assert.equal(users.inner(165_536), undefined);
    assert.equal(new IdMap('').inner(0), undefined);
  });

  it('take the place of those outside wherever an image has them, and nowhere else', () => {
    const image = {
      processes: [
        {
          pid: 100_001,
          pgid: 200_001,
          threads: [{ credentials: { uid: 100_001, gid: 200_001, groups: [200_002, 5] } }],
        },
      ],
      files: [{ kind: { $case: 'pipe', value: { uid: 100_002, inode: 100_002n } } }],
      namespaces: [
        {
          mounts: [{ options: 'rw,gid=200005,mode=620,uid=7', name: 'gid=200005' }],
          settings: [
            { name: 'net/ipv4/ping_group_range', value: Buffer.from('200001\t200009\n') },
            { name: 'net/core/somaxconn', value: Buffer.from('200001\n') },
          ],
        },
      ],
      host: undefined,
    };
    useInnerIds(image as unknown as TreeImage, { users, groups });
    assert.deepEqual(image.processes[0], {
      pid: 100_001,
      pgid: 200_001,
      threads: [{ credentials: { uid: 1, gid: 1, groups: [2, 5] } }],
    });
    assert.deepEqual(image.files[0]!.kind.value, { uid: 2, inode: 100_002n });
    assert.deepEqual(image.namespaces[0]!.mounts[0], {
      options: 'rw,gid=5,mode=620,uid=7',
      name: 'gid=200005',
    });
    const settings = image.namespaces[0]!.settings.map(({ value }) => value.toString());
    assert.deepEqual(settings, ['1\t9\n', '200001\n']);
  });
});
