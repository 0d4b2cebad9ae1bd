import type { ClusterClient } from '@ferry/api';
import { until } from './calls.js';
import { startControllerProgram, type TestController } from './controller.js';
import type { FakeAgent } from './fake-agent.js';
import { startRedis, type TestRedis } from './redis.js';

/** A controller as a program of its own, its Redis, and agents that keep everything in memory. */
export class FakeCluster {
  readonly agents: readonly FakeAgent[];
  /** Most migrations at once, into all of them together. */
  readonly load = { now: 0, most: 0 };
  #redis: TestRedis | undefined;
  #controller: TestController | undefined;

  constructor(...agents: FakeAgent[]) {
    this.agents = agents;
  }

  /** Starts all of it; gives what calls the controller. */
  async start(): Promise<ClusterClient> {
    this.#redis = await startRedis();
    this.#controller = await startControllerProgram(this.redis.url);
    for (const agent of this.agents) {
      agent.load = this.load;
      await agent.start(this.controller.address);
    }
    return this.controller.client;
  }

  get redis(): TestRedis {
    if (this.#redis === undefined) throw new Error('It was not started');
    return this.#redis;
  }

  get controller(): TestController {
    if (this.#controller === undefined) throw new Error('It was not started');
    return this.#controller;
  }

  /** Ends the controller, and starts another one at its address; gives what calls that. */
  async restart(signal: NodeJS.Signals): Promise<ClusterClient> {
    const { address } = this.controller;
    await this.controller.end(signal);
    this.#controller = await startControllerProgram(this.redis.url, { listen: address });
    const { client } = this.controller;
    // This process still waits before it connects to that address again.
    await until('a connection', () => client.listNodes({}).catch(() => undefined));
    for (const agent of this.agents) await agent.join(address);
    return client;
  }

  /** Makes the agents empty, quick and willing again. */
  async reset(): Promise<void> {
    for (const agent of this.agents) {
      agent.containers.clear();
      agent.problems = [];
      agent.failWith = undefined;
      agent.steps = { beforeCommit: 5, afterCommit: 1, ms: 10 };
      await this.controller.client.uncordonNode({ node: agent.name });
    }
    this.load.most = 0;
  }

  async end(): Promise<void> {
    for (const agent of this.agents) await agent.stop();
    await this.#controller?.end();
    await this.#redis?.stop();
  }
}
