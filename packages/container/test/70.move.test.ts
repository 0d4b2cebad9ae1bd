import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { call } from '@ferry/linux';
import { type ContainerHost, mustRun, type Transfer } from '../src/index.js';
import { buildPeer, gather, PROGRAMS, shellSpec, TestHosts, until } from './support.js';

const PORT = '7000';

describe('container between two hosts', () => {
  let hosts: TestHosts;
  let peer: string;

  before(async () => {
    hosts = await TestHosts.make(2);
    peer = await buildPeer(hosts.folder);
  });
  after(async () => {
    assert.deepEqual(await hosts.remove(), ['peer'], 'the hosts left something behind');
  });
  afterEach(async () => {
    for (const host of hosts.hosts) {
      for (const { record } of await host.list()) await host.remove(record.name);
    }
  });

  const image = () => ({
    ...{ kind: 'program' as const, programs: PROGRAMS },
    copy: [{ from: peer, to: '/bin/peer' }],
  });
  const server = (name: string) => ({ name, image: image(), args: ['/bin/peer', 'serve', PORT] });
  const client = (name: string) => ({ name, image: image(), args: ['/bin/sleep', '100'] });

  const linesOf = async (host: ContainerHost, name: string) =>
    (await gather(host.readLog(name))).map(({ line }) => line);

  /** Waits until at least `count` frames are kept for a container, and takes them. */
  async function framesFor(host: ContainerHost, name: string, count: number): Promise<Buffer[]> {
    const frames: Buffer[] = [];
    for (let i = 0; i < 2000 && frames.length < count; i++) {
      await sleep(10);
      frames.push(...host.takeFrames(name));
    }
    assert(frames.length >= count, `${frames.length} frames were kept`);
    return frames;
  }

  async function ask(host: number, from: string, ip: string): Promise<string> {
    const result = await hosts.host(host).exec(from, ['/bin/peer', 'ask', ip, PORT]);
    return result.stdout.toString().trim();
  }

  it('is reached by others over IPv4 and IPv6, from its own host and the next', async () => {
    const { record } = await hosts.host(0).run(server('server'));
    await hosts.host(0).run(client('near'));
    await hosts.host(1).run(client('far'));
    const { address, address6 = '' } = record.network;
    for (const ip of [address, address6]) {
      assert.equal(await ask(0, 'near', ip), 'pid 1');
      assert.equal(await ask(1, 'far', ip), 'pid 1');
    }
  });

  it('falls silent when locked, without a reset, and comes back', async () => {
    const { record } = await hosts.host(0).run(server('server'));
    await hosts.host(0).run(client('near'));
    const { address } = record.network;
    assert.equal(await ask(0, 'near', address), 'pid 1');
    await hosts.host(0).lock('server');
    assert.equal(await ask(0, 'near', address), 'no answer');
    // Not even a kernel without the socket may answer: here nobody listens any more.
    await hosts.host(0).kill('server', 'SIGKILL');
    assert.equal(await ask(0, 'near', address), 'no answer');
    await hosts.host(0).unlock('server');
    await until(
      'the port is open again',
      async () => (await ask(0, 'near', address)) !== 'no answer',
    );
  });

  it('gets what came while it was locked, also questions for its address', async () => {
    const { record } = await hosts.host(0).run(server('server'));
    await hosts.host(0).run(client('near'));
    await hosts.host(1).run(client('far'));
    const { address, address6 = '' } = record.network;
    for (const ip of [address, address6]) {
      await hosts.host(0).keepFrames('server');
      await hosts.host(0).lock('server');
      // Each waits 300 ms, and would ask again only after a second. They have not heard of the address before.
      const asked = [ask(0, 'near', ip), ask(1, 'far', ip)];
      const frames = await framesFor(hosts.host(0), 'server', 2);
      await hosts.host(0).unlock('server');
      hosts.host(0).deliverFrames('server', frames);
      assert.deepEqual(await Promise.all(asked), ['pid 1', 'pid 1'], ip);
    }
  });

  it('is watched for the first packet of its own, which what tells its neighbours of it is not', async () => {
    const host = hosts.host(0);
    const { record } = await host.run(server('server'));
    await host.run(client('near'));
    using watch = await host.watchFirstPacket('server');
    watch.start();
    await host.announce('server');
    assert.equal(watch.afterMs, undefined);
    const { address, address6 = '' } = record.network;
    const askedAt = performance.now();
    assert.equal(await ask(0, 'near', address6), 'pid 1');
    await until('a packet', async () => watch.afterMs !== undefined);
    const afterMs = watch.afterMs ?? 0;
    assert.ok(afterMs > 0 && afterMs <= performance.now() - askedAt + 1000);
    assert.equal(await ask(0, 'near', address), 'pid 1');
    assert.equal(watch.afterMs, afterMs, 'a later one took its place');
    watch.start();
    assert.equal(watch.afterMs, undefined);
    assert.equal(await ask(0, 'near', address), 'pid 1');
    await until('a packet over IPv4', async () => watch.afterMs !== undefined);
  });

  it('gets on its new host what came while it was under way', async () => {
    const { record } = await hosts.host(0).run(server('server'));
    await hosts.host(0).run(client('near'));
    await hosts.host(1).run(client('far'));
    const { address } = record.network;
    const asked: Promise<string>[] = [];
    await move('server', {
      arriving: async () => {
        asked.push(ask(0, 'near', address), ask(1, 'far', address));
        return await framesFor(hosts.host(0), 'server', 2);
      },
    });
    assert.deepEqual(await Promise.all(asked), ['pid 1', 'pid 1']);
  });

  /** What the agents do for everything but processes and memory. */
  async function move(
    name: string,
    {
      from = 0,
      to = 1,
      arriving = async () => [],
    }: { from?: number; to?: number; arriving?: () => Promise<Buffer[]> } = {},
  ): Promise<Transfer> {
    const [source, target] = [hosts.host(from), hosts.host(to)];
    const transfer = JSON.parse(JSON.stringify(await source.describe(name))) as Transfer;
    for (const digest of target.missingLayers(transfer)) {
      await target.layers.importLayer(digest, source.layers.exportLayer(digest));
    }
    await target.reserve(transfer);
    await target.importLog(name, source.exportLog(name));
    const history = (await gather(source.exportLog(name))).reduce(
      (sum, part) => sum + part.length,
      0,
    );
    await source.keepFrames(name);
    await source.lock(name);
    await source.freeze(name);
    await source.flushLog(name);
    await target.importLog(name, source.exportLog(name, { from: history }));
    await target.importUpper(name, source.exportUpper(name));
    const fd = openSync(peer, 'r');
    try {
      const args = ['restore', PORT];
      await target.createForRestore(name, { entry: '/proc/self/fd/3', args, fds: [fd] });
    } finally {
      closeSync(fd);
    }
    await target.start(name);
    await target.importMounts(name, source.exportMounts(name));
    await target.completeRestore(name, { epoch: transfer.epoch + 1 });
    // Once its program listens there.
    await until('the restorer', async () => (await linesOf(target, name)).includes('serving'));
    const frames = await arriving();
    await target.unlock(name);
    target.deliverFrames(name, [...frames, ...source.takeFrames(name)]);
    await source.remove(name);
    return transfer;
  }

  it('moves with files, mounts, log, address and configuration', async () => {
    const [source, target] = [hosts.host(0), hosts.host(1)];
    const script = [
      'echo before; echo kept > /etc/kept; rm /etc/hosts; rm -rf /home; mkdir /home; echo new > /home/new',
      'mkfifo /tmp/fifo; echo shared > /dev/shm/shared; mkdir /scratch/inner; echo tmp > /scratch/inner/file',
      'printf "half a line "; while :; do sleep 1; done',
    ].join('; ');
    const spec = shellSpec('moving', script, {
      ...{ image: image(), seccomp: 'default', hostname: 'same', memoryLimitBytes: 100 << 20 },
      mounts: [{ kind: 'tmpfs', destination: '/scratch', sizeBytes: 1 << 20 }],
    });
    const { record } = await source.run(spec);
    await source.run(client('near'));
    await until(
      'its last output',
      async () => (await gather(source.readLog('moving'))).length === 2,
    );
    const before = await source.exec('moving', ['/bin/cat', '/proc/self/status']);
    const stdio = await source.stdio('moving');

    await move('moving');

    const fdb = await mustRun('nsenter', [
      `--net=${hosts.netns(0)}`,
      'bridge',
      'fdb',
      'show',
      'br',
      'br0',
    ]);
    const learned = new RegExp(`^${record.network.mac} dev up1`, 'm');
    assert.match(
      fdb.stdout.toString(),
      learned,
      'the bridge of the source has not heard of the move',
    );
    assert.equal(await source.find('moving'), undefined);
    const status = await target.get('moving');
    assert.equal(status.state, 'running');
    assert.equal(status.record.epoch, 1);
    assert.equal(status.record.id, record.id);
    assert.deepEqual(status.record.network, record.network);
    assert.notDeepEqual(await target.stdio('moving'), stdio);

    const look =
      'cat /etc/kept /home/* /dev/shm/shared /scratch/inner/file; ls /etc/hosts /tmp/fifo';
    const files = await target.exec('moving', ['/bin/sh', '-c', look]);
    assert.equal(files.stdout.toString(), 'kept\nnew\nshared\ntmp\n/tmp/fifo\n');
    assert.match(files.stderr.toString(), /\/etc\/hosts.*No such file/);

    const now = await target.exec('moving', ['/bin/cat', '/proc/self/status']);
    const own = /^(Cap|NoNewPrivs|Seccomp)/;
    const pick = (text: Buffer) =>
      text
        .toString()
        .split('\n')
        .filter((line) => own.test(line));
    assert.deepEqual(
      pick(now.stdout),
      pick(before.stdout),
      'a program run inside has other rights',
    );
    assert.ok(pick(now.stdout).includes('Seccomp:\t2'));

    await until('the restorer', async () => (await gather(target.readLog('moving'))).length >= 3);
    const lines = (await gather(target.readLog('moving'))).map(({ line }) => line);
    assert.deepEqual(lines, ['before', 'half a line restored: pid 1, child 77', 'serving']);
    assert.equal(await ask(0, 'near', record.network.address), 'pid 1', 'neighbours found it');
    assert.equal((await target.memory('moving')).limitBytes, 100 << 20);
    await target.kill('moving', 'SIGKILL');
    assert.equal((await target.waitExit('moving'))?.signal, 9);
  });

  it('passes on the descriptors it is given and no others', async () => {
    const target = hosts.host(1);
    await hosts.host(0).run(server('sealed'));
    const transfer = await hosts.host(0).describe('sealed');
    for (const digest of target.missingLayers(transfer)) {
      await target.layers.importLayer(digest, hosts.host(0).layers.exportLayer(digest));
    }
    await target.reserve(transfer);
    const fd = openSync(peer, 'r');
    // A descriptor that was not made close-on-exec.
    const leaked = call('dup', fd);
    try {
      const args = ['serve', PORT];
      const options = { entry: '/proc/self/fd/3', args, fds: [fd, fd] };
      const { pid } = await target.createForRestore('sealed', options);
      await target.start('sealed');
      await until('it serves', async () => (await gather(target.readLog('sealed'))).length === 1);
      const peers = [3, 4].map((number) => readlinkSync(`/proc/${pid}/fd/${number}`));
      assert.deepEqual(peers, [peer, peer]);
      // 5 is the socket that the program has opened itself.
      assert.deepEqual(readdirSync(`/proc/${pid}/fd`), ['0', '1', '2', '3', '4', '5']);
      const { shim } = (await target.get('sealed')).record;
      const held = readdirSync(`/proc/${shim?.process.pid}/fd`).map((name) =>
        readlinkSync(`/proc/${shim?.process.pid}/fd/${name}`),
      );
      assert.ok(!held.includes(peer), 'the shim holds what is not its own');
    } finally {
      closeSync(fd);
      closeSync(leaked);
    }
  });

  it('gives the restorer what it needs to build processes, and nothing to the record', async () => {
    await hosts.host(0).run(server('rights'));
    await move('rights');
    const target = hosts.host(1);
    const status = readFileSync(`/proc/${await target.initPid('rights')}/status`, 'utf8');
    const effective = BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(status)?.[1]}`);
    for (const bit of [5, 6, 7, 8, 12, 19, 21, 40]) {
      assert.equal((effective >> BigInt(bit)) & 1n, 1n, `capability ${bit}`);
    }
    const again = await target.describe('rights');
    assert.deepEqual(again.config.process.args, ['/bin/peer', 'serve', PORT]);
    assert.ok(!again.config.process.capabilities?.bounding.includes('CAP_SYS_ADMIN'));
  });

  it('takes along what cookies of TCP Fast Open are made with', async () => {
    const key = '01234567-89abcdef-00000000-00000001';
    const file = '/proc/sys/net/ipv4/tcp_fastopen_key';
    await hosts.host(0).run(client('quick'));
    const inside = (host: number, ...command: string[]) =>
      mustRun('nsenter', [`--net=${hosts.host(host).netnsPath('quick')}`, ...command]);
    assert.equal((await hosts.host(0).describe('quick')).fastOpenKey, undefined);
    await inside(0, 'sh', '-c', `echo ${key} > ${file}`);
    await move('quick');
    assert.equal((await inside(1, 'cat', file)).stdout.toString().trim(), key);
  });

  it('moves there and back with what it has gathered on the way', async () => {
    const script = 'echo one > /file; echo started; while :; do sleep 1; done';
    const spec = shellSpec('commuter', script, { image: image(), seccomp: 'default' });
    const { record } = await hosts.host(0).run(spec);
    await until(
      'it started',
      async () => (await gather(hosts.host(0).readLog('commuter'))).length === 1,
    );
    await move('commuter');
    const add = ['/bin/sh', '-c', 'echo two >> /file; rm /etc/group'];
    assert.equal((await hosts.host(1).exec('commuter', add)).status, 0);
    await move('commuter', { from: 1, to: 0 });
    const host = hosts.host(0);
    const look = ['/bin/sh', '-c', 'cat /file /proc/self/status; ls /etc/group'];
    const seen = (await host.exec('commuter', look)).stdout.toString();
    assert.match(seen, /^one\ntwo\n/);
    assert.match(seen, /^Seccomp:\s2$/m);
    assert.doesNotMatch(seen, /etc\/group/);
    const status = await host.get('commuter');
    assert.equal(status.record.epoch, 2);
    assert.deepEqual(status.record.network, record.network);
    await until('the log', async () => (await gather(host.readLog('commuter'))).length === 5);
    const lines = (await gather(host.readLog('commuter'))).map(({ line }) => line);
    const restored = ['restored: pid 1, child 77', 'serving'];
    assert.deepEqual(lines, ['started', ...restored, ...restored]);
  });

  it('stays with its source when the destination cannot create it, and the place can be given up', async () => {
    const [source, target] = [hosts.host(0), hosts.host(1)];
    await source.run(server('staying'));
    await source.run(client('near'));
    const transfer = await source.describe('staying');
    for (const digest of target.missingLayers(transfer)) {
      await target.layers.importLayer(digest, source.layers.exportLayer(digest));
    }
    await target.reserve(transfer);
    await source.lock('staying');
    await source.freeze('staying');
    await target.importUpper('staying', source.exportUpper('staying'));
    const missing = { entry: '/no/such/program', fds: [] };
    await assert.rejects(target.createForRestore('staying', missing), {
      code: 'container.runtime',
      message: /no\/such\/program.*no such file/,
    });
    assert.equal((await target.get('staying')).record.phase, 'incoming');
    await target.remove('staying');
    await source.thaw('staying');
    await source.unlock('staying');
    assert.equal(await ask(0, 'near', transfer.network.address), 'pid 1');
  });

  it('is not taken in without its layers, in another subnet, or from a description that is wrong', async () => {
    const [source, target] = [hosts.host(0), hosts.host(1)];
    const spec = server('refused');
    await source.run({
      ...spec,
      image: { ...spec.image, links: [{ path: '/x', target: 'only-here' }] },
    });
    const transfer = await source.describe('refused');
    await assert.rejects(target.reserve(transfer), { code: 'container.layer' });
    const [known = ''] = (await target.layers.list()).map(({ digest }) => digest);
    const layers = known === '' ? [] : [known];
    const network = { ...transfer.network, address: '10.99.0.1' };
    await assert.rejects(target.reserve({ ...transfer, layers, network }), {
      code: 'container.address',
    });
    const mounts = [{ destination: 'relative' }];
    const wrong: [string, object][] = [
      ['path', { name: '../../etc' }],
      ['config', { config: { ...transfer.config, mounts } }],
      ['hooks', { config: { ...transfer.config, hooks: {} } }],
      ['version', { version: 2 }],
    ];
    for (const [what, change] of wrong) {
      const description = { ...transfer, layers, ...change } as Transfer;
      await assert.rejects(target.reserve(description), { code: 'container.transfer' }, what);
    }
    assert.deepEqual(await target.list(), []);
  });
});
