import { strict as assert } from 'node:assert';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '../../controller/test/support/calls.js';
import {
  startControllerProgram,
  type TestController,
} from '../../controller/test/support/controller.js';
import { FakeAgent } from '../../controller/test/support/fake-agent.js';
import { startRedis, type TestRedis } from '../../controller/test/support/redis.js';
import { commandTable } from '../src/command-table.js';
import { ferryHere, ferry as runFerry } from './support/ferry.js';

describe('cli: against a controller', () => {
  let redis: TestRedis;
  let controller: TestController;
  const a = new FakeAgent('a');
  const b = new FakeAgent('b');

  before(async () => {
    redis = await startRedis();
    controller = await startControllerProgram(redis.url);
    await a.start(controller.address);
    await b.start(controller.address);
  });
  after(async () => {
    await a.stop();
    await b.stop();
    await controller.end();
    await redis.stop();
  });
  afterEach(() => {
    for (const agent of [a, b]) {
      agent.steps = { beforeCommit: 5, afterCommit: 1, ms: 10 };
      agent.problems = [];
    }
  });

  const ferry = (...args: string[]) => ferryHere(args, controller.address);

  /** Runs it with --json; it must succeed and print one JSON value. */
  async function json(...args: string[]) {
    const at = args.includes('--') ? args.indexOf('--') : args.length;
    const { status, stdout, stderr } = await ferry(...args.toSpliced(at, 0, '--json'));
    assert.equal(status, 0, stderr);
    assert.equal(stdout.split('\n').length, 2, 'one line');
    return JSON.parse(stdout);
  }

  it('runs a container with all that was asked, and leaves the program its options', async () => {
    const { status, stdout, stderr } = await runFerry(
      [
        ...['run', 'web', '--node', 'a', '--rootfs', '/srv/x', '--memory', '64m', '--cpus', '0.5'],
        ...['--env', 'A=1', '--env', 'B=', '--mount', '/m:/n:ro', '--user', '5:6', '--read-only'],
        ...['--label', 'k=v', '--', '/bin/x', '--json', '-n'],
      ],
      { controller: controller.address },
    );
    assert.equal(status, 0, stderr);
    assert.equal(stdout, 'web runs on a\n');
    const spec = a.containers.get('web')?.spec;
    assert.deepEqual(spec?.args, ['/bin/x', '--json', '-n']);
    assert.deepEqual(spec.env, ['A=1', 'B=']);
    assert.deepEqual([spec.memoryLimitBytes, spec.cpuLimitMillis], [67108864n, 500]);
    assert.deepEqual([spec.uid, spec.gid, spec.readOnlyRootfs], [5, 6, true]);
    assert.deepEqual(spec.mounts, [{ source: '/m', destination: '/n', readOnly: true }]);
    assert.deepEqual(spec.labels, { k: 'v' });
  });

  it('takes the name as an option too', async () => {
    const { operation } = await json('run', '--name', 'two', '--bundle', '/srv/b', '--node', 'a');
    assert.deepEqual([operation.state, operation.started.name], ['succeeded', 'two']);
  });

  it('migrates with plain progress lines on stderr and the result on stdout', async () => {
    const { status, stdout, stderr } = await ferry('migrate', 'web', '--to', 'b');
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^web moved from a to b \(stop-copy\): downtime 13 ms, total 100 ms/);
    assert.match(stderr, /^ *\d+ % {2}pages/m);
    const { operation } = await json('migrate', 'web', '--any');
    const { container, from, to, mode, downtime_ms, bytes_raw, parts } = operation.migration;
    assert.deepEqual(
      { container, from, to, mode, downtime_ms, bytes_raw, parts },
      {
        ...{ container: 'web', from: 'b', to: 'a', mode: 'stop-copy', downtime_ms: 12.5 },
        ...{ bytes_raw: 6000, parts: [{ name: 'pages', ms: 50 }] },
      },
    );
  });

  it('lists containers, nodes and operations', async () => {
    await a.beat();
    const { containers } = await json('ps');
    assert.deepEqual(
      containers.map(({ name, node, state }: Record<string, string>) => [name, node, state]),
      [
        ['two', 'a', 'running'],
        ['web', 'a', 'running'],
      ],
    );
    assert.match((await ferry('ps')).stdout, /^NAME +NODE +STATE.*\n(.*\n)*web +a +running /);
    const { nodes } = await json('node', 'ls');
    assert.deepEqual(
      nodes.map(({ name, state }: Record<string, string>) => [name, state]),
      [
        ['a', 'ready'],
        ['b', 'ready'],
      ],
    );
    const { operations } = await json('op', 'ls', '--container', 'web', '--limit', '2');
    assert.deepEqual(
      operations.map(({ kind }: { kind: string }) => kind),
      ['migrate', 'migrate'],
    );
    const shown = await ferry('op', 'show', operations[0].id);
    assert.match(shown.stdout, /^operation {2}.*\(migrate\)\nstate {6}succeeded\n/);
  });

  it('prints logs, each stream where it belongs', async () => {
    const { stdout, stderr } = await ferry('logs', 'web');
    assert.deepEqual([stdout, stderr], ['one\n', 'two\n']);
    const all = await json('logs', 'web', '--tail', '5');
    assert.deepEqual(all[1], { stream: 'stderr', text: 'two\n' });
    const followed = await runFerry(['logs', 'web', '-f'], {
      controller: controller.address,
      interruptAt: /follow 3/,
    });
    assert.match(followed.stdout, /^one\nfollow 0\nfollow 1\n/);
  });

  it('saves a container in a file and restores it from there', async () => {
    const file = join(redis.folder, 'web.ferry');
    const { operation } = await json(
      'checkpoint',
      'web',
      '--plain',
      '--out',
      file,
      '--leave-running',
    );
    assert.equal(readFileSync(file).length, operation.checkpoint.size_bytes);
    assert.deepEqual(operation.checkpoint.warnings, ['a fake has no memory']);
    assert.equal(a.files.size, 0, 'the node has removed its copy');
    assert.ok(!existsSync(`${file}.part`));
    const again = await ferry('checkpoint', 'web', '--out', file);
    assert.deepEqual([again.status, a.containers.has('web')], [2, true]);
    const told = await ferry(
      'checkpoint',
      'web',
      '--plain',
      '--out',
      file,
      '--force',
      '--leave-running',
    );
    assert.match(told.stdout, /^web is in .*\nWarning: a fake has no memory\n$/);
    const shown = await ferry('op', 'show', operation.id);
    assert.match(shown.stdout, /^Warning: a fake has no memory$/m);
    const restored = await json('restore', file, '--node', 'b', '--name', 'copy');
    assert.equal(restored.operation.started.node, 'b');
    assert.ok(b.containers.has('copy'));
  });

  it('keeps the checkpoint on its node when what arrives is damaged', async () => {
    const file = join(redis.folder, 'two.ferry');
    a.damageFiles = true;
    const { status, stderr } = await ferry(
      'checkpoint',
      'two',
      '--plain',
      '--out',
      file,
      '--leave-running',
    );
    a.damageFiles = false;
    const [id = ''] = [...a.files.keys()];
    assert.equal(status, 1);
    assert.match(stderr, /did not arrive .*not what the node wrote/);
    assert.match(stderr, new RegExp(`Remedy: .*ferry checkpoint --fetch ${id} --out`));
    assert.ok(!existsSync(file) && !existsSync(`${file}.part`) && a.files.has(id));
  });

  it('drains: dry run, now, at a time, by schedule', async () => {
    const { plan } = await json('node', 'drain', 'b', '--dry-run');
    assert.deepEqual([plan[0].container, plan[0].to], ['copy', 'a']);
    const { status, stdout } = await ferry('node', 'drain', 'b', '--wait', '--concurrency', '1');
    assert.deepEqual([status, stdout], [0, 'b is drained; 1 containers moved\n']);
    assert.match((await ferry('node', 'ls')).stdout, /^b +cordoned .*drain /m);
    assert.match((await ferry('node', 'uncordon', 'b')).stdout, /takes containers/);
    const { operation } = await json('node', 'drain', 'b', '--at', '+1h');
    assert.equal(operation.state, 'scheduled');
    const cancelled = await json('op', 'cancel', operation.id);
    assert.equal(cancelled.operation.state, 'cancelled');
    const cron = await json('node', 'drain', 'b', '--cron', '0 3 * * 6');
    assert.equal(cron.operation.kind, 'drain-schedule');
    await json('op', 'cancel', cron.operation.id);
  });

  it('goes on watching when the controller restarts', async () => {
    b.steps = { beforeCommit: 30, afterCommit: 1, ms: 50 };
    const migration = json('migrate', 'two', '--to', 'b');
    await until(
      'progress',
      () => [...b.migrations.values()].some((one) => one.status.state === 'running') || undefined,
    );
    const { address } = controller;
    await controller.end('SIGKILL');
    controller = await startControllerProgram(redis.url, { listen: address });
    const { operation } = await migration;
    assert.deepEqual([operation.state, operation.attempts], ['succeeded', 2]);
  });

  it('leaves the operation alone when it is interrupted, and says how to go on', async () => {
    a.steps = { beforeCommit: 100, afterCommit: 1, ms: 30 };
    await until('the node', async () => {
      const { nodes } = await controller.client.listNodes({}).catch(() => ({ nodes: [] }));
      return nodes.every(({ state }) => state === 'ready') && nodes.length === 2 ? true : undefined;
    });
    const options = { controller: controller.address, interruptAt: /pages/ };
    const { status, stderr } = await runFerry(['migrate', 'two', '--to', 'a'], options);
    assert.equal(status, 130);
    const id = /"ferry op cancel (\S+)" ends it/.exec(stderr)?.[1] ?? '';
    const { operation } = await json('op', 'cancel', id, '--wait');
    assert.equal(operation.state, 'cancelled');
    const watched = await ferry('op', 'watch', id);
    assert.equal(watched.status, 1);
  });

  it('says what failed, what stands in the way, and what to do', async () => {
    b.problems = [
      { code: 'host.memory', object: 'b', reason: 'needs 2 GiB, has 1', remedy: 'free some' },
    ];
    const { status, stderr } = await ferry('migrate', 'web', '--to', 'b');
    assert.equal(status, 1);
    assert.match(stderr, /^ferry: Node "b" cannot take "web"$/m);
    assert.match(stderr, /^ {2}- b: needs 2 GiB, has 1\. Remedy: free some$/m);
    const failed = await ferry('migrate', 'web', '--to', 'b', '--json');
    assert.equal(failed.status, 1);
    assert.equal(JSON.parse(failed.stdout).operation.state, 'failed');
    const { error } = JSON.parse(failed.stderr.trim().split('\n').at(-1) ?? '');
    assert.deepEqual([error.code, error.problems.length], ['migrate.preflight', 1]);
  });

  const wrong: [string, string[], number, RegExp][] = [
    ['an unknown command', ['fly'], 2, /no command "fly".*Remedy/s],
    ['an unknown option', ['ps', '--what'], 2, /unknown option '--what'.*ferry ps --help/s],
    ['an unknown subcommand', ['node', 'fly'], 2, /unknown command 'fly'/],
    ['a missing argument', ['stop'], 2, /missing required argument 'name'/],
    ['no destination', ['migrate', 'web'], 2, /--to NODE or --any/],
    ['no root filesystem', ['run', 'x', '--', 'y'], 2, /--rootfs or --bundle/],
    ['no program', ['run', 'x', '--rootfs', '/r'], 2, /program is missing/],
    ['a time that has passed', ['node', 'drain', 'a', '--at', '2001-01-01'], 2, /has passed/],
    ['a wrong cron expression', ['node', 'drain', 'a', '--cron', 'x'], 1, /Cron expression "x"/],
    ['an unknown container', ['stop', 'nothing'], 1, /no container "nothing".*ferry ps/s],
    ['an unknown operation', ['op', 'show', 'nothing'], 1, /no operation "nothing"/],
    ['an unknown node', ['node', 'cordon', 'z'], 1, /no node "z"/],
    ['no controller', ['ps', '--controller', '127.0.0.1:1'], 3, /Nobody answers at 127.0.0.1:1/],
    ['a wrong address', ['ps', '--controller', 'here'], 2, /not the address of a controller/],
  ];
  for (const [what, args, expected, text] of wrong) {
    it(`ends with ${expected} for ${what}`, async () => {
      const { status, stdout, stderr } = await ferry(...args);
      assert.equal(status, expected, stderr);
      assert.match(stderr, text);
      assert.equal(stdout, '');
    });
  }

  it('ends as a program with that status too', async () => {
    const { status, stderr } = await runFerry(['node', 'ls']);
    assert.deepEqual([status, stderr.startsWith('ferry: Nobody answers at ')], [3, true]);
  });

  it('has help with an example for every command', async () => {
    const names = Object.keys(commandTable);
    const { stdout } = await ferry('--help');
    for (const name of names) assert.match(stdout, new RegExp(`^ {2}${name} `, 'm'));
    const groups = {
      node: ['ls', 'cordon', 'uncordon', 'drain'],
      op: ['ls', 'show', 'watch', 'cancel'],
    };
    for (const name of names) {
      const { build } = await commandTable[name]!.load([]);
      const command = build();
      const all = name in groups ? command.commands : [command];
      if (name in groups) {
        assert.deepEqual(
          all.map((child) => child.name()),
          groups[name as keyof typeof groups],
        );
      }
      for (const one of all) {
        let help = '';
        one.configureOutput({ writeOut: (text) => (help += text) }).outputHelp();
        assert.match(help, /Examples?:\n {2}\S/, `${name} ${one.name()}`);
      }
    }
  });
});
