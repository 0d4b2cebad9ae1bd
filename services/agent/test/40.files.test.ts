import { strict as assert } from 'node:assert';
import { type HostName, TwoAgents } from './support/two-agents.js';

// Numbers each line of two files that it keeps open: one of the root file system, one on a tmpfs.
const WRITER = `
exec 3>>/data/disk 4>>/dev/shm/memory
i=0
while :; do
  i=$((i+1)); echo $i >&3; echo $i >&4; echo $i >/data/last.new; mv /data/last.new /data/last
  [ $((i % 50)) = 0 ] && echo $i > /data/file-$i
  read -t 0.005 x </dev/zero
done`;

describe('agent: files that move with a container', function () {
  this.timeout(120_000);
  let two: TwoAgents;
  before(async () => {
    two = await TwoAgents.start();
    const rootfs = await two.rootfs(['/bin/bash', '/bin/mv', '/bin/cat', '/bin/ls']);
    await two.run('h1', { name: 'writer', rootfs, args: ['/bin/bash', '-c', WRITER] });
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  const read = async (host: HostName, path: string) => {
    const { stdout } = await two.at(host).agent.host.exec('writer', ['/bin/cat', path]);
    return stdout.toString();
  };
  const numbers = (text: string) => text.trim().split('\n').map(Number);

  for (const [i, [from, to]] of (
    [
      ['h1', 'h2'],
      ['h2', 'h1'],
    ] as const
  ).entries()) {
    it(`are whole, and go on being written, after move ${i + 1}`, async () => {
      const mode = 'stop-copy';
      const result = await two.migrate('writer', from, to, `files-${i}`, { mode });
      assert.deepEqual(result.warnings, []);
      const length = numbers(await read(to, '/data/disk')).length;
      await new Promise((done) => setTimeout(done, 300));
      for (const path of ['/data/disk', '/dev/shm/memory']) {
        const got = numbers(await read(to, path));
        assert.deepEqual(
          got,
          got.map((_number, at) => at + 1),
        );
        assert(got.length > length, `${path} stands at ${got.length} lines`);
      }
      const { stdout } = await two.at(to).agent.host.exec('writer', ['/bin/ls', '/data']);
      const names = stdout.toString().trim().split('\n');
      const last = Number(await read(to, '/data/last'));
      assert(last >= length);
      for (let n = 50; n < length; n += 50) assert(names.includes(`file-${n}`), `file-${n}`);
    });
  }
});
