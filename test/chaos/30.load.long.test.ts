import { strict as assert } from 'node:assert';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as actions from '../support/actions.js';
import { certificateFolder } from '../support/certificates.js';
import { Cluster } from '../support/cluster.js';
import { tryRun, until } from '../support/shell.js';

const HOSTS = ['h1', 'h2', 'h3'];
const LOAD = fileURLToPath(new URL('./load-main.ts', import.meta.url));
const CONTAINERS = Number(process.env.FERRY_LOAD_CONTAINERS ?? 20);
const MIGRATIONS = Number(process.env.FERRY_LOAD_MIGRATIONS ?? 200);
const names = Array.from({ length: CONTAINERS }, (_, i) => `ticker-${i + 1}`);

interface Drain extends actions.OperationLine {
  readonly error?: {
    readonly message: string;
    readonly problems?: readonly { object: string; reason: string; remedy: string }[];
  };
}

describe('chaos: load', function () {
  this.timeout(1_200_000);
  let cluster: Cluster;
  before(async () => {
    cluster = await Cluster.start({ hosts: HOSTS });
    const { shell: rootfs } = await actions.makeRootfsFolders(cluster.folder.path);
    for (const [i, name] of names.entries()) {
      await actions.runTicker(cluster, { name, node: HOSTS[i % HOSTS.length] ?? '', rootfs });
    }
  });
  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });
  after(async () => {
    await cluster?.remove();
  });

  async function beginDrain(node: string, concurrency = '4'): Promise<actions.OperationLine> {
    const args = ['node', 'drain', node, '--concurrency', concurrency];
    return (await cluster.ferryJson<{ operation: actions.OperationLine }>(args)).operation;
  }

  /** Every container runs, on one host alone, and has written each of its lines once. */
  async function noneLost(): Promise<void> {
    const present = await until('every container to run', async () => {
      const lines = await actions.containers(cluster);
      return lines.length === names.length && lines.every(({ state }) => state === 'running')
        ? lines
        : undefined;
    });
    for (const { name, node } of present) {
      const copies = HOSTS.filter((host) =>
        readdirSync(join(cluster.stateDir(host), 'containers')).includes(name),
      );
      assert.deepEqual(copies, [node], `${name} is there once`);
      await actions.ticksInLog(cluster, name);
    }
  }

  it(`${MIGRATIONS} migrations of ${CONTAINERS} containers over ${HOSTS.length} hosts lose none`, async () => {
    const tls = certificateFolder(cluster.folder.path, { role: 'operator', name: 'load' });
    const [program = '', ...prefix] = cluster.network.on('ctl');
    const before = performance.now();
    const env = {
      ...cluster.folder.env,
      ...{ FERRY_TLS: tls, FERRY_CONTROLLER: '10.77.0.2:7460' },
      FERRY_LOAD_MIGRATIONS: String(MIGRATIONS),
    };
    const args = [...prefix, process.execPath, '--import', 'tsx', LOAD, ...names];
    const { status, stdout, stderr } = await tryRun(program, args, { env, timeoutMs: 900_000 });
    assert.equal(status, 0, stderr);
    const ends = JSON.parse(stdout) as { state: string; error: string }[];
    const seconds = (performance.now() - before) / 1000;
    const done = ends.filter(({ state }) => state === 'succeeded').length;
    console.log(
      `      ${done} of ${ends.length} migrations succeeded in ${seconds.toFixed(0)} s ` +
        `(${(done / seconds).toFixed(1)} a second)`,
    );
    const others = ends.filter(({ state }) => state !== 'succeeded');
    assert.equal(ends.length, MIGRATIONS, 'each has ended');
    // On a host that is too busy to say that it is there a refusal is right, and changes nothing; "internal" never is.
    for (const { state, error } of others) {
      console.log(`      ${state}: ${error}`);
      assert.match(error, /^(placement\.none|node\.unavailable|migrate\.|container\.busy)/);
    }
    assert.ok(done >= MIGRATIONS * 0.9, `${done} succeeded`);
    await noneLost();
  });

  it('a node that is drained while another dies: its containers go elsewhere, or are named', async () => {
    const here = (await actions.containers(cluster)).filter(({ node }) => node === 'h1');
    assert.ok(here.length > 0);
    const { id } = await beginDrain('h1', '1');
    let dead = '';
    const dies = ({ drain }: Drain) => {
      const next = drain?.moves.find(({ state }) => state === 'running');
      if (dead !== '' || next === undefined) return;
      dead = next.to;
      void cluster.end(dead, 'SIGKILL');
    };
    const { state, error } = (await actions.finished(cluster, id, dies, 400_000)) as Drain;
    assert.notEqual(dead, '', 'it was over before a node died');
    const stay = (error?.problems ?? []).map(({ object }) => object);
    console.log(
      `      the drain ${state}; ${stay.length} of ${here.length} stay: ${stay.join(', ')}`,
    );
    for (const { reason } of error?.problems ?? []) assert.notEqual(reason, '');
    assert.equal(state, stay.length === 0 ? 'succeeded' : 'failed');
    await cluster.startAgent(dead);
    await noneLost();
    for (const { name, node } of await actions.containers(cluster)) {
      if (node === 'h1') assert(stay.includes(name), `${name} stayed and is not named`);
    }
    await cluster.ferry(['node', 'uncordon', 'h1']);
  });

  it('a drain that cannot finish names every container that stays, why, and what to do', async () => {
    for (const host of ['h1', 'h2']) await cluster.ferry(['node', 'cordon', host]);
    const here = (await actions.containers(cluster)).filter(({ node }) => node === 'h3');
    assert.ok(here.length > 0);
    const { id } = await beginDrain('h3');
    const { state, error } = (await actions.finished(cluster, id, () => undefined)) as Drain;
    assert.equal(state, 'failed');
    const problems = error?.problems ?? [];
    assert.deepEqual(
      problems.map(({ object }) => object).sort(),
      here.map(({ name }) => name).sort(),
    );
    for (const { reason } of problems) assert.notEqual(reason, '');
    await noneLost();
  });
});
