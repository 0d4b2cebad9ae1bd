import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { type HostName, TwoAgents } from './support/two-agents.js';

const LOOP = 'while :; do read -t 1 x </dev/zero; done';

describe('agent: whom a container has found in its network', function () {
  this.timeout(120_000);
  let two: TwoAgents;
  before(async () => {
    two = await TwoAgents.start();
    const rootfs = await two.rootfs(['/bin/bash']);
    await two.run('h1', { name: 'quiet', rootfs, args: ['/bin/bash', '-c', LOOP] });
  });
  after(async () => {
    assert.deepEqual(await two?.remove(), []);
  });

  async function ip(host: HostName, ...args: string[]): Promise<string> {
    const pid = await two.at(host).agent.host.initPid('quiet');
    const command = [`--net=/proc/${pid}/ns/net`, 'ip', ...args];
    return execFileSync('nsenter', command, { encoding: 'utf8' });
  }

  const add = (address: string, mac: string, state: string) =>
    ip('h1', 'neigh', 'replace', address, 'lladdr', mac, 'nud', state, 'dev', 'eth0');

  it('it knows where it goes, but for what the new host has itself', async () => {
    await add('10.77.0.3', '02:00:00:00:00:03', 'reachable');
    await add('10.77.0.4', '02:00:00:00:00:04', 'stale');
    await add('10.77.0.5', '02:00:00:00:00:05', 'permanent');
    await add('fe80::7', '02:00:00:00:00:07', 'stale');
    await add('10.77.0.12', '02:00:00:00:00:0c', 'stale');
    await two.migrate('quiet', 'h1', 'h2', 'neighbours-1');
    const known = (await ip('h2', 'neigh', 'show', 'dev', 'eth0')).trim().split('\n');
    const found = known.flatMap((line) => {
      const match = /^(\S+) lladdr (02:00:00:00:00:\S+) .*?(STALE|PERMANENT)/.exec(line);
      return match === null ? [] : [match.slice(1).join(' ')];
    });
    assert.deepEqual(found.sort(), [
      '10.77.0.3 02:00:00:00:00:03 STALE',
      '10.77.0.4 02:00:00:00:00:04 STALE',
      '10.77.0.5 02:00:00:00:00:05 PERMANENT',
      'fe80::7 02:00:00:00:00:07 STALE',
    ]);
  });
});
