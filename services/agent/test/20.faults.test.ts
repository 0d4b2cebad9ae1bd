import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClientMachine } from '../../../test/support/client-machine.js';
import { until } from '../../../test/support/shell.js';
import { changed, type Faults, FaultyPort } from './support/faulty-port.js';
import { TwoAgents } from './support/two-agents.js';

const REDIS = ['/usr/bin/redis-server', '--port', '6379', '--save', '', '--protected-mode', 'no'];

describe('agent: migrations that fail', function () {
  this.timeout(120_000);
  let two: TwoAgents;
  let client: ClientMachine;
  let address: string;
  let count = 0;
  before(async () => {
    two = await TwoAgents.start();
    const rootfs = await two.rootfs(['/usr/bin/redis-server', '/usr/bin/redis-cli', '/bin/bash']);
    await two.run('h1', { name: 'redis', rootfs, args: REDIS });
    ({ address } = (await two.at('h1').agent.host.get('redis')).record.network);
    client = await ClientMachine.start(two.network.on('client'), two.folder.env);
    await client.call('fill', address, 6379, 20_000);
    await client.call('startCounter', address, 6379, 'count');
  });
  after(async () => {
    await client?.stop();
    assert.deepEqual(await two?.remove(), []);
  });

  /** Everything that is in the place of a destination after a failure: nothing. */
  async function nothingOnH2(): Promise<void> {
    assert.deepEqual(await two.states('h2'), {});
    assert.deepEqual(await two.at('h2').agent.host.list(), []);
    const groups = execFileSync('find', [
      '/sys/fs/cgroup',
      // Others make and remove groups meanwhile.
      '-ignore_readdir_race',
      '-path',
      `*ferry-${two.folder.id}-h2/*`,
      '-type',
      'd',
    ]);
    assert.equal(groups.toString(), '');
    const links = execFileSync('ip', ['-n', two.network.namespace('h2'), '-o', 'link']);
    assert(!links.toString().includes(': fy'), links.toString());
    const namespaces = `${two.stateDir('h2')}/run/netns`;
    assert.deepEqual(existsSync(namespaces) ? readdirSync(namespaces) : [], []);
  }

  /** The container on h1 runs on, connection and all, and is traced and frozen by nobody. */
  async function runsOnH1(): Promise<void> {
    assert.deepEqual(await two.states('h1'), { redis: 'running' });
    const before = await client.call('counterReport');
    await new Promise((done) => setTimeout(done, 400));
    const now = await client.call('counterReport');
    assert(now.replies > before.replies, `stands at ${now.replies} replies`);
    assert.deepEqual([now.errors, now.lostWrites, now.duplicatedWrites], [[], 0, 0]);
    const { host } = two.at('h1').agent;
    const status = readFileSync(`/proc/${await host.initPid('redis')}/status`, 'utf8');
    assert.match(status, /^TracerPid:\s+0$/m);
  }

  const failing = (name: string, code: string | RegExp, faults: Partial<Faults>) =>
    it(name, async () => {
      two.wrapSource = (port) => new FaultyPort(port, faults);
      const id = `fault-${count++}`;
      await assert.rejects(two.migrate('redis', 'h1', 'h2', id), (error: { code: string }) => {
        assert.match(error.code, new RegExp(code));
        return true;
      });
      two.wrapSource = undefined;
      assert.equal((await two.at('h2').client.queryMigration({ migrationId: id })).state, 'failed');
      await runsOnH1();
      await nothingOnH2();
    });

  // First: a layer that has come stays, and is not fetched again.
  failing('by a layer that is not what its name says', 'container', {
    bytes: (chunks) =>
      changed(chunks, (chunk, i) => {
        const copy = Buffer.from(chunk);
        if (i === 1) copy[copy.length >> 1]! ^= 1;
        return copy;
      }),
  });
  failing('by a stream of pages that ends early', 'pages.truncated', {
    pages: (chunks) => changed(chunks, (chunk, i) => (i < 3 ? chunk : undefined)),
  });
  failing('by bits that flipped in a page', 'pages.damaged', {
    pages: (chunks) =>
      changed(chunks, (chunk, i) => {
        // One alone may be of an LZ4 offset, and lead to the same content.
        if (i === 2) for (let at = 100; at < 116; at++) chunk.data[at]! ^= 0x55;
        return chunk;
      }),
  });
  failing('by pages in another order', 'pages.sequence', {
    pages: (chunks) => changed(chunks, (chunk) => ({ ...chunk, segment: chunk.segment + 1 })),
  });
  failing('by pages for a process that is not its own', 'pages.sequence|pages.damaged', {
    pages: (chunks) => changed(chunks, (chunk) => ({ ...chunk, pages: 255 })),
  });
  failing('by an image that is damaged', 'migrate.damaged', {
    session: (answers) =>
      changed(answers, (answer) => {
        if (answer.message?.$case === 'image') answer.message.value.data[200]! ^= 1;
        return answer;
      }),
  });
  failing('by a bit that flipped in the stream "upper"', 'container.archive', {
    state: (chunks, name) =>
      name.startsWith('upper')
        ? changed(chunks, (chunk) => {
            const copy = Buffer.from(chunk);
            copy[copy.length >> 1]! ^= 1;
            return copy;
          })
        : chunks,
  });
  failing('by an announcement of more than there may be', 'migrate.tooLarge', {
    session: (answers) =>
      changed(answers, (answer) => {
        if (answer.message?.$case === 'frozen') answer.message.value.imageBytes = 1n << 40n;
        return answer;
      }),
  });
  failing('by a control stream that breaks while frozen', 'migrate.lost', {
    session: (answers) =>
      changed(answers, (answer) => (answer.message?.$case === 'imageEnd' ? undefined : answer)),
  });
  it('by a restorer that is killed while memory comes', async () => {
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        pages: (chunks) =>
          changed(chunks, (chunk, i) => {
            if (i === 2) {
              const folder = `${two.stateDir('h2')}/containers/redis/pid`;
              process.kill(Number(readFileSync(folder, 'utf8')), 'SIGKILL');
            }
            return chunk;
          }),
      });
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'killed'));
    two.wrapSource = undefined;
    await runsOnH1();
    await nothingOnH2();
  });

  for (const mode of ['', 'post-copy']) {
    it(`by no memory for what may run in a moment (${mode || 'auto'})`, async () => {
      await killsAtGrant('redis', (pids) => pids, `grave-${mode}`, mode);
      await runsOnH1();
      await nothingOnH2();
    });
  }

  it('by no memory for one of the processes that may run in a moment: the others do not run either', async () => {
    const args = ['/bin/bash', '-c', 'coproc { read x; }; read y <&"$COPROC"'];
    await two.run('h1', { name: 'pair', rootfs: `${two.folder.path}/rootfs`, args });
    await until('both', async () =>
      two.at('h1').agent.host.pids('pair').length === 2 ? true : undefined,
    );
    await killsAtGrant('pair', ([, child = 0]) => [child], 'half', '');
    const { host } = two.at('h1').agent;
    assert.equal((await two.states('h1')).pair, 'running');
    assert.equal(host.pids('pair').length, 2);
    await nothingOnH2();
    const request = { operationId: 'stop-pair', name: 'pair', graceMs: 100, remove: true };
    await two.at('h1').client.stopContainer(request);
    await runsOnH1();
  });

  /** Kills processes of the destination's copy when the grant comes, and does not wait until they have ended. */
  async function killsAtGrant(
    name: string,
    chosen: (pids: number[]) => number[],
    id: string,
    mode: string,
  ): Promise<void> {
    let killedOnes = 0;
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        session: (answers) =>
          changed(answers, async (answer) => {
            if (answer.message?.$case !== 'grant' || killedOnes > 0) return answer;
            for (const pid of chosen(two.at('h2').agent.host.pids(name))) {
              process.kill(pid, 'SIGKILL');
              killedOnes += 1;
            }
            return answer;
          }),
      });
    const code = /^restore\.(failed|stuck)$/;
    await assert.rejects(two.migrate(name, 'h1', 'h2', id, { mode }), (error: { code: string }) =>
      code.test(error.code),
    );
    two.wrapSource = undefined;
    assert(killedOnes > 0);
  }

  it('by a tracer that is killed while all is frozen', async () => {
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        pages: (chunks) =>
          changed(chunks, async (chunk, i) => {
            // Held back until it has gone: with all memory read and sent it would be missed by nobody.
            if (i === 0) await killed(tracerOf(two.at('h1').agent.host.cgroupPath('redis')));
            return chunk;
          }),
      });
    // While memory moves in rounds nothing is frozen, and nobody traces it.
    const frozen = { mode: 'stop-copy' };
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'untraced', frozen));
    two.wrapSource = undefined;
    await runsOnH1();
    await nothingOnH2();
  });

  it('by being cancelled while memory moves', async () => {
    const cancelled: Promise<unknown>[] = [];
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        pages: (chunks) =>
          changed(chunks, (chunk, i) => {
            const request = { migrationId: 'cancelled', reason: 'a test' };
            if (i === 1) cancelled.push(two.at('h2').client.cancelMigration(request));
            return chunk;
          }),
      });
    const code = 'migrate.cancelled';
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'cancelled'), { code });
    two.wrapSource = undefined;
    await Promise.all(cancelled);
    const { state } = await two.at('h2').client.queryMigration({ migrationId: 'cancelled' });
    assert.equal(state, 'cancelled');
    await runsOnH1();
    await nothingOnH2();
  });

  it('because the source heard before that it was cancelled', async () => {
    const request = { migrationId: 'never', reason: 'a test' };
    assert.equal((await two.at('h1').client.cancelMigration(request)).state, 'cancelled');
    const code = 'migrate.cancelled';
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'never'), { code });
    await runsOnH1();
    await nothingOnH2();
  });

  it('because the destination has a container of that name', async () => {
    const rootfs = `${two.folder.path}/rootfs`;
    await two.run('h2', { name: 'redis', rootfs, args: ['/bin/bash', '-c', 'read x </dev/zero'] });
    const code = 'migrate.preflight';
    await assert.rejects(two.migrate('redis', 'h1', 'h2', 'taken'), { code });
    assert.deepEqual(await two.states('h2'), { redis: 'running' });
    await two
      .at('h2')
      .client.stopContainer({ operationId: 'stop', name: 'redis', graceMs: 100, remove: true });
    await runsOnH1();
    await nothingOnH2();
  });

  it('never, when only the grant was lost: it is asked for again', async () => {
    let lost = false;
    two.wrapSource = (port) =>
      new FaultyPort(port, {
        session: (answers) =>
          changed(answers, (answer) => {
            if (answer.message?.$case !== 'grant' || lost) return answer;
            lost = true;
            return undefined;
          }),
      });
    const result = await two.migrate('redis', 'h1', 'h2', 'grant');
    two.wrapSource = undefined;
    assert(lost);
    assert.equal(result.to, 'h2');
    assert.deepEqual(await two.states('h1'), {});
    assert.deepEqual(await two.states('h2'), { redis: 'running' });
    const { report, sameConnection } = await client.call('stopCounter', 'count');
    assert(sameConnection);
    assert.deepEqual([report.errors, report.lostWrites, report.duplicatedWrites], [[], 0, 0]);
  });
});

/** Kills a process and waits until it is nobody's any more. */
async function killed(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL');
  while (existsSync(`/proc/${pid}`)) await sleep(5);
}

/** The process that holds the tasks of a cgroup by ptrace. */
function tracerOf(cgroup: string): number {
  const [pid = ''] = readFileSync(`${cgroup}/cgroup.procs`, 'utf8').split('\n');
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const tracer = Number(/^TracerPid:\s+(\d+)$/m.exec(status)?.[1]);
  // Signals for 0 go to this whole group of processes.
  assert.ok(tracer > 0, 'it is traced');
  return tracer;
}
