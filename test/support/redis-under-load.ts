import assert from 'node:assert/strict';
import * as actions from './actions.js';
import type { ClientMachine } from './client-machine.js';
import { Cluster, type ClusterOptions } from './cluster.js';
import { sleep } from './shell.js';

const COUNTER = 'counter';
const LOOK_MS = 300;
const SAMPLES = 5000;

/** Two hosts, and on the first a Redis container full of keys in which a client counts without pause. */
export class RedisUnderLoad {
  readonly cluster: Cluster;
  readonly #client: ClientMachine;
  readonly #address: string;
  readonly #data: { readonly keys: number; readonly digest: string };

  private constructor(
    cluster: Cluster,
    client: ClientMachine,
    filled: { address: string; data: { keys: number; digest: string } },
  ) {
    this.cluster = cluster;
    this.#client = client;
    this.#address = filled.address;
    this.#data = filled.data;
  }

  static async start(
    keys: number,
    options: Omit<ClusterOptions, 'hosts'> = {},
  ): Promise<RedisUnderLoad> {
    const cluster = await Cluster.start({ hosts: ['h1', 'h2'], ...options });
    try {
      const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
      const where = { name: 'redis', node: 'h1', rootfs: rootfs.redis };
      const address = await actions.runRedis(cluster, where);
      const client = await cluster.client();
      await client.call('fill', address, actions.REDIS_PORT, keys);
      const data = await actions.dataOf(client, address);
      assert.equal(data.keys, keys);
      await client.call('startCounter', address, actions.REDIS_PORT, COUNTER);
      return new RedisUnderLoad(cluster, client, { address, data });
    } catch (error) {
      await cluster.remove();
      throw error;
    }
  }

  /** Does `work`, after which the client has to count on. */
  async countsThrough(work: () => Promise<void>): Promise<void> {
    const before = await this.#client.call('counterReport');
    await work();
    await sleep(LOOK_MS);
    const after = await this.#client.call('counterReport');
    assert.ok(after.replies > before.replies + 20, 'the client goes on counting');
    assert.deepEqual(after.errors, []);
    assert.deepEqual([after.lostWrites, after.duplicatedWrites], [0, 0]);
  }

  /** Ends the client: it has had one connection all the time, and Redis has its data. */
  async isWhole(): Promise<void> {
    const { report, sameConnection } = await this.#client.call('stopCounter', COUNTER);
    assert.equal(sameConnection, true);
    assert.deepEqual(report.errors, []);
    assert.deepEqual([report.lostWrites, report.duplicatedWrites], [0, 0]);
    await this.#client.call('command', this.#address, actions.REDIS_PORT, 'DEL', COUNTER);
    assert.deepEqual(await actions.dataOf(this.#client, this.#address), this.#data);
    const { keys } = this.#data;
    const wrong = await this.#client.call(
      'check',
      this.#address,
      actions.REDIS_PORT,
      keys,
      SAMPLES,
    );
    assert.deepEqual(wrong, []);
  }
}
