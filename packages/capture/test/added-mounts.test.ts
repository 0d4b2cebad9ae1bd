import { deepStrictEqual } from 'node:assert';
import { addedMounts, type GivenMount } from '../src/namespaces/added-mounts.js';
import { parseMountInfo } from '../src/namespaces/mountinfo.js';

/** Lines of mountinfo for these mountpoints, in the order of their making. */
function mounted(...mountpoints: string[]) {
  return parseMountInfo(
    mountpoints
      .map((path, i) => {
        const [mountpoint, tag = ''] = path.split(' ');
        return `${i + 100} 99 0:${i + 30} / ${mountpoint} rw ${tag} - tmpfs none rw\n`;
      })
      .join(''),
  );
}

const given: GivenMount[] = [
  ...['/proc', '/dev', '/var/run', '/proc/sys'].map((path) => ({ path, hasMore: false })),
  { path: '/data', hasMore: true },
];

const added = (...mountpoints: string[]) =>
  addedMounts(mounted('/', ...mountpoints), given).map(({ mountpoint }) => mountpoint);

describe('mounts that a container has added', () => {
  it('are none where only what was configured stands', () => {
    deepStrictEqual(added('/proc', '/dev', '/data', '/proc/sys'), []);
  });

  it('are those made after the last configured one', () => {
    deepStrictEqual(added('/proc', '/dev', '/proc/sys', '/mnt', '/mnt/below'), [
      '/mnt',
      '/mnt/below',
    ]);
  });

  it('are also those that cover a configured one', () => {
    deepStrictEqual(added('/proc', '/dev', '/proc/sys', '/dev'), ['/dev']);
  });

  it('are not those that a configured path leads to by a link', () => {
    deepStrictEqual(added('/proc', '/run', '/proc/sys'), []);
  });

  it('are not those that came with a bind mount, or come through it from the host', () => {
    deepStrictEqual(added('/proc', '/proc/sys', '/data', '/data/disk'), []);
    deepStrictEqual(added('/data', '/proc/sys', '/data/disk master:7', '/data/own'), ['/data/own']);
  });

  it("are not the runtime's devices", () => {
    deepStrictEqual(added('/proc', '/proc/sys', '/dev/console'), []);
  });
});
