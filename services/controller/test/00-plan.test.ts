import { strict as assert } from 'node:assert';
import { Container, Node, Operation, type Problem, Progress, Resources } from '@ferry/api';
import { ProgressReporter } from '../src/operations/progress.js';
import { freeAddresses, parsePool, parseSubnet } from '../src/plan/addresses.js';
import { planDrain } from '../src/plan/drain.js';
import { memoryNeed, rankNodes, reservedByNode } from '../src/plan/placement.js';
import { containerView } from '../src/plan/view.js';
import { parseSettings } from '../src/settings.js';

function node(name: string, freeBytes: number, state = 'ready'): Node {
  const resources = Resources.fromPartial({ memoryFreeBytes: BigInt(freeBytes) });
  return Node.fromPartial({ name, state, resources });
}

const none = new Map<string, bigint>();

describe('controller: placement', () => {
  const nodes = [node('a', 50), node('b', 80), node('c', 80), node('d', 90, 'cordoned')];
  const rows: [string, Partial<Parameters<typeof rankNodes>[1]>, string[]][] = [
    ['most free memory first, equal ones by name', {}, ['b', 'c', 'a']],
    ['none with too little', { memoryBytes: 60n }, ['b', 'c']],
    ['exactly enough is enough', { memoryBytes: 80n }, ['b', 'c']],
    ['not where it is', { exclude: ['b'] }, ['c', 'a']],
    ['what is on its way counts', { reserved: new Map([['b', 40n]]) }, ['c', 'a', 'b']],
    ['reserved beyond what is free', { reserved: new Map([['a', 99n]]) }, ['b', 'c']],
  ];
  for (const [what, need, expected] of rows) {
    it(what, () => {
      const ranked = rankNodes(nodes, { memoryBytes: 0n, exclude: [], reserved: none, ...need });
      assert.deepEqual(
        ranked.map((candidate) => candidate.node),
        expected,
      );
    });
  }
  it('leaves out nodes that are down', () => {
    const need = { memoryBytes: 0n, exclude: [], reserved: none };
    assert.deepEqual(rankNodes([node('a', 5, 'down')], need), []);
  });
  it('reserves for runs, restores and migrations that have a destination', () => {
    const operations = [
      { kind: 'migrate', node: 'b', container: 'x' },
      { kind: 'run', node: 'b', container: 'y' },
      { kind: 'migrate', node: '', container: 'x' },
      { kind: 'drain', node: 'b', container: '' },
      { kind: 'checkpoint', node: 'b', container: 'x' },
    ].map((fields) => Operation.fromPartial(fields));
    assert.deepEqual(
      reservedByNode(operations, () => 7n),
      new Map([['b', 14n]]),
    );
  });
  it('takes the limit of a container for what it needs until it is known to use something', () => {
    const spec = { memoryLimitBytes: 9n };
    assert.equal(memoryNeed(Container.fromPartial({ spec })), 9n);
    assert.equal(memoryNeed(Container.fromPartial({ spec, memoryBytes: 4n })), 4n);
    assert.equal(memoryNeed(Container.create()), 0n);
  });
});

describe('controller: plan of a drain', () => {
  const full: Problem = { code: 'host.disk', object: '/', reason: 'is full', remedy: 'free some' };
  interface Row {
    readonly what: string;
    readonly containers: Record<string, number>;
    readonly nodes: readonly Node[];
    readonly problems?: Record<string, Record<string, Problem[]>>;
    readonly reserved?: Map<string, bigint>;
    /** Container → destination, or what the reason must hold. */
    readonly moves: [string, string | RegExp][];
  }
  const rows: Row[] = [
    { what: 'nothing to do', containers: {}, nodes: [node('b', 9)], moves: [] },
    {
      what: 'the largest first, each where then most is free',
      containers: { s: 10, l: 60, m: 40 },
      nodes: [node('a', 500), node('b', 100), node('c', 90)],
      moves: [
        ['l', 'b'],
        ['m', 'c'],
        ['s', 'c'],
      ],
    },
    {
      what: 'equal ones by name',
      containers: { y: 10, x: 10 },
      nodes: [node('b', 15), node('c', 14)],
      moves: [
        ['x', 'b'],
        ['y', 'c'],
      ],
    },
    {
      what: 'not where something stands against it',
      containers: { x: 10 },
      nodes: [node('b', 100), node('c', 50)],
      problems: { x: { b: [full] } },
      moves: [['x', 'c']],
    },
    {
      what: 'nowhere, with what each node says',
      containers: { x: 60 },
      nodes: [node('b', 100), node('c', 50)],
      problems: { x: { b: [full] } },
      moves: [['x', /^b: \/: is full; c: not enough free memory$/]],
    },
    {
      what: 'nowhere without other nodes',
      containers: { x: 1 },
      nodes: [node('a', 100), node('b', 100, 'cordoned'), node('c', 100, 'down')],
      moves: [['x', /^No other node takes containers$/]],
    },
    {
      what: 'one that does not fit does not stop the others',
      containers: { big: 200, small: 5 },
      nodes: [node('b', 100)],
      moves: [
        ['big', /not enough/],
        ['small', 'b'],
      ],
    },
    {
      what: 'what others bring there is left free',
      containers: { x: 60 },
      nodes: [node('b', 100), node('c', 70)],
      reserved: new Map([['b', 50n]]),
      moves: [['x', 'c']],
    },
  ];
  for (const row of rows) {
    it(row.what, () => {
      const names = Object.keys(row.containers);
      const verdicts = new Map(
        names.map((name) => {
          const of = ({ name: on }: Node) => [on, row.problems?.[name]?.[on] ?? []] as const;
          return [name, new Map(row.nodes.map(of))];
        }),
      );
      const containers = names.map((name) => {
        return { name, memoryBytes: BigInt(row.containers[name] ?? 0) };
      });
      const snapshot = { node: 'a', containers, nodes: row.nodes, verdicts };
      const plan = planDrain({ ...snapshot, reserved: row.reserved ?? none });
      assert.equal(plan.length, row.moves.length);
      for (const [index, [container, expected]] of row.moves.entries()) {
        const move = plan[index];
        assert.equal(move?.container, container);
        if (typeof expected === 'string') assert.equal(move.to, expected);
        else assert.match(move.reason, expected);
        assert.equal(move.to === undefined, move.remedy !== '');
      }
    });
  }
  it('goes nowhere that was not asked', () => {
    const containers = [{ name: 'x', memoryBytes: 1n }];
    const snapshot = { node: 'a', containers, nodes: [node('b', 9)], reserved: none };
    const [move] = planDrain({ ...snapshot, verdicts: new Map() });
    assert.match(move?.reason ?? '', /its agent did not answer/);
  });
});

describe('controller: addresses', () => {
  it('gives out a range in order, without what is taken', () => {
    const free = freeAddresses(parsePool('10.0.0.254-10.0.1.2'), new Set(['10.0.1.0']));
    assert.deepEqual([...free], ['10.0.0.254', '10.0.0.255', '10.0.1.1', '10.0.1.2']);
  });
  it('leaves out the network and broadcast addresses of a subnet', () => {
    assert.deepEqual(
      [...freeAddresses(parsePool('10.0.0.9/29'), new Set())],
      [9, 10, 11, 12, 13, 14].map((last) => `10.0.0.${last}`),
    );
  });
  for (const text of ['', '10.0.0.0', '10.0.0.5-10.0.0.1', '10.0.0.0/31', '10.0.0.256/24', 'x-y']) {
    it(`refuses "${text}"`, () => {
      assert.throws(() => parsePool(text), { code: 'address.invalid' });
    });
  }
  it('finds the network of an address', () => {
    assert.deepEqual(parseSubnet('255.255.255.255/1'), { network: 2 ** 31, prefixLength: 1 });
  });
});

describe('controller: a container as users see it', () => {
  const record = {
    ...{ name: 'x', node: 'a', epoch: 2n, operation: '', spec: undefined },
    ...{ createdAtMs: 5, updatedAtMs: 5 },
  };
  const reported = Container.fromPartial({ name: 'x', state: 'running', epoch: 2n, pid: 9 });
  const beat = (at: number) => ({ ...node('a', 1), lastHeartbeatAtMs: BigInt(at) });
  const up = { node: node('a', 1), containers: [reported] };
  const rows: [string, Parameters<typeof containerView>, string][] = [
    ['as its node says', [record, up], 'running'],
    ['unknown when its node is down', [record, { ...up, node: node('a', 1, 'down') }], 'unknown'],
    ['unknown when its node is gone', [record, undefined], 'unknown'],
    ['starting until it has an epoch', [{ ...record, epoch: 0n }, up], 'starting'],
    [
      'unknown when its node does not have it',
      [record, { node: beat(9), containers: [] }],
      'unknown',
    ],
    [
      'running when its node has yet to say so',
      [record, { node: beat(1), containers: [] }],
      'running',
    ],
  ];
  for (const [what, args, expected] of rows) {
    it(what, () => assert.equal(containerView(...args).state, expected));
  }
});

describe('controller: progress', () => {
  it('is passed on in order, not too often, and never falls', async () => {
    let now = 1000;
    const seen: string[] = [];
    const write = async ({ phase, fraction }: Progress) => void seen.push(`${phase} ${fraction}`);
    const reporter = new ProgressReporter(write, () => now);
    const report = (phase: string, fraction: number) => {
      reporter.report(Progress.fromPartial({ phase, fraction }));
    };
    report('pages', 0.1);
    report('pages', 0.2);
    report('pages', 0.3);
    now += 200;
    report('pages', 0.4);
    report('restore', 0.2);
    report('restore', 7);
    await reporter.close();
    assert.deepEqual(seen, ['pages 0.1', 'pages 0.4', 'restore 0.4', 'restore 1']);
  });

  it('has its last figures at the end', async () => {
    const seen: Progress[] = [];
    const reporter = new ProgressReporter(
      async (value) => void seen.push(value),
      () => 1000,
    );
    const figures = { bytesRawDone: 700n, bytesRawTotal: 700n, bytesWireDone: 90n, round: 3 };
    reporter.report(Progress.fromPartial({ phase: 'resume', fraction: 0.99, ...figures }));
    reporter.done(Progress.fromPartial({ phase: 'done', message: 'done', elapsedMs: 12 }));
    await reporter.close();
    const last = { phase: 'done', message: 'done', fraction: 1, elapsedMs: 12, ...figures };
    assert.deepEqual(seen.at(-1), Progress.fromPartial(last));
  });
});

describe('controller: settings', () => {
  it('has defaults', () => {
    const settings = parseSettings([]);
    assert.ok(settings !== 'help');
    assert.equal(settings.listen, '127.0.0.1:7460');
    assert.equal(settings.downAfterMs, 8000);
  });
  const wrong = [
    ['--listen', 'nowhere'],
    ['--log-level', 'loud'],
    ['--prefix', 'a b'],
    ['--job-lock-ms', '5'],
    ['--what'],
    ['extra'],
  ];
  for (const args of wrong) {
    it(`refuses ${args.join(' ')}`, () => {
      assert.throws(() => parseSettings(args), { code: /invalid$/ });
    });
  }
});
