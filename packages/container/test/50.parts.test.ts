import assert from 'node:assert/strict';
import { parseCgroupMounts } from '../src/cgroups.js';
import { LineJoiner } from '../src/log.js';
import { runtimeText } from '../src/runc.js';

describe('log records', () => {
  const record = (fields: object) => JSON.stringify({ time: 'T', stream: 'stdout', ...fields });

  it('join to lines, each stream for itself', () => {
    const joiner = new LineJoiner();
    assert.equal(joiner.take(record({ line: 'first ', partial: true })), undefined);
    const other = joiner.take(record({ stream: 'stderr', line: 'between' }));
    assert.equal(other?.line, 'between');
    assert.equal(joiner.take(record({ line: 'half', time: 'U' }))?.line, 'first half');
    assert.deepEqual([...joiner.rest()], []);
  });

  it('join bytes that are only together a character', () => {
    const joiner = new LineJoiner();
    joiner.take(record({ hex: 'e282', partial: true }));
    assert.equal(joiner.take(record({ hex: 'ac' }))?.line, '€');
  });

  it('tell of a line that has not ended, of lost output, and pass over a torn record', () => {
    const joiner = new LineJoiner();
    joiner.take(record({ line: 'open', partial: true }));
    assert.equal(joiner.take('{"time":"T","str'), undefined);
    assert.match(joiner.take(record({ stream: 'stderr', lostBytes: 7 }))?.line ?? '', /7 bytes/);
    assert.deepEqual(
      [...joiner.rest()].map(({ line }) => line),
      ['open'],
    );
  });
});

describe('cgroup mounts', () => {
  const v1 = (name: string) =>
    `30 25 0:26 / /sys/fs/cgroup/${name} rw,nosuid shared:9 - cgroup cgroup rw,${name}`;
  const v2 = (path: string) => `31 25 0:27 / ${path} rw - cgroup2 cgroup2 rw,nsdelegate`;

  const rows: [string, string[], string, string | undefined][] = [
    ['pure v2', [v2('/sys/fs/cgroup')], 'v2', '/sys/fs/cgroup'],
    ['hybrid', [v1('memory'), v2('/sys/fs/cgroup/unified')], 'hybrid', '/sys/fs/cgroup/unified'],
    ['pure v1', [v1('memory'), v1('freezer')], 'v1', undefined],
  ];
  for (const [name, lines, mode, unified] of rows) {
    it(`are told apart: ${name}`, () => {
      const mounts = parseCgroupMounts(['1 0 8:1 / / rw - ext4 /dev/sda rw', ...lines].join('\n'));
      assert.equal(mounts.mode, mode);
      assert.equal(mounts.unified, unified);
      assert.equal(mounts.controllers.has('memory'), mode !== 'v2');
    });
  }
});

describe('words of the runtime', () => {
  it('are taken out of its log lines, once each', () => {
    const text = [
      '{"level":"error","msg":"exec: \\"x\\": not found","time":"T"}',
      'time="T" level=error msg="exec: \\"x\\": not found"',
      'plain words',
    ].join('\n');
    assert.equal(runtimeText(text), 'exec: "x": not found; plain words');
    assert.equal(runtimeText(' \n'), 'it gave no reason');
  });
});
