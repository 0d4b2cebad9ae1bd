import { deepEqual } from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TreeCapture } from '@ferry/capture';
import { ContainerNetwork, ensureBridge, givenNetwork } from '@ferry/container';

async function inNewNetwork(): Promise<ChildProcess & { pid: number }> {
  const child = spawn('unshare', ['-n', 'sh', '-c', 'echo ready; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout!, 'data');
  return child as ChildProcess & { pid: number };
}

describe('the network that a host makes for a container', () => {
  it('is what the capture of that container takes it to be', async () => {
    const [outside, inside] = [await inNewNetwork(), await inNewNetwork()];
    const folder = mkdtempSync(join(tmpdir(), 'ferry-given-'));
    const hostNetns = `/proc/${outside.pid}/ns/net`;
    const bridge = 'br0';
    const config = {
      ...{ bridge, hostNetns, subnet: '10.77.0.0/24', gateway: '10.77.0.1', mtu: 1400 },
      ...{ subnet6: 'fd77::/64', gateway6: 'fd77::1' },
    };
    const network = new ContainerNetwork(config, 'here');
    const port = { netns: join(folder, 'net'), veth: network.vethName('web') };
    try {
      await ensureBridge(bridge, { address: '10.77.0.1/24', hostNetns });
      const addresses = await network.allocate({ address: '10.77.0.5' }, []);
      await network.create(port, addresses, { pid: inside.pid });
      try {
        network.connect(port, addresses);
        using capture = TreeCapture.open(inside.pid, {
          namespacesGiven: true,
          givenSettings: {},
          givenNetwork: givenNetwork(addresses),
        });
        const isOfNetwork = ({ code }: { code: string }) =>
          /^(network\.|namespace\.setting)/.test(code);
        deepEqual(capture.scan().blockers.filter(isOfNetwork), []);
        network.lock(port);
        deepEqual(capture.scan().blockers.filter(isOfNetwork), []);
      } finally {
        await network.release(port);
      }
    } finally {
      for (const child of [inside, outside]) {
        child.kill('SIGKILL');
        await once(child, 'exit');
      }
      rmSync(folder, { recursive: true });
    }
  });
});
