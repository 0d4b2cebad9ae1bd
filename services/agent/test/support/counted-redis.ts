import { strict as assert } from 'node:assert';
import { ClientMachine } from '../../../../test/support/client-machine.js';
import { until } from '../../../../test/support/shell.js';
import { TwoAgents } from './two-agents.js';

const PORT = 6379;
const COUNTER = 'count';
const REDIS = [
  ...['/usr/bin/redis-server', '--port', String(PORT)],
  ...['--save', '', '--protected-mode', 'no'],
];

/** Two hosts, the first one's agent a program that can be killed, with a Redis that a client counts in without pause. */
export class CountedRedis {
  readonly two: TwoAgents;
  readonly #client: ClientMachine;

  private constructor(two: TwoAgents, client: ClientMachine) {
    this.two = two;
    this.#client = client;
  }

  /** @param keys  that it holds besides */
  static async start(keys: number): Promise<CountedRedis> {
    const two = await TwoAgents.start();
    try {
      await two.stopAgent('h1');
      await two.startProgram('h1');
      const rootfs = await two.rootfs(['/usr/bin/redis-server', '/usr/bin/redis-cli']);
      const { address } = await two.run('h1', { name: 'redis', rootfs, args: REDIS });
      const client = await ClientMachine.start(two.network.on('client'), two.folder.env);
      await client.call('fill', address, PORT, keys);
      await client.call('startCounter', address, PORT, COUNTER);
      return new CountedRedis(two, client);
    } catch (error) {
      await two.remove();
      throw error;
    }
  }

  /** Its only client sees that it runs, with nothing lost. */
  async runs(): Promise<void> {
    const before = await this.#client.call('counterReport');
    await until('replies', async () => {
      const now = await this.#client.call('counterReport');
      return now.replies > before.replies + 10 ? true : undefined;
    });
    const now = await this.#client.call('counterReport');
    assert.deepEqual([now.errors, now.lostWrites, now.duplicatedWrites], [[], 0, 0]);
  }

  /** Ends everything, and fails when something is left. */
  async end(): Promise<void> {
    await this.#client.stop();
    assert.deepEqual(await this.two.remove(), []);
  }
}
