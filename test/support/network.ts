import { run } from './shell.js';

/** Hosts as network namespaces, joined at the link layer as machines on one switch are:
 *
 *      h1 ── br0 ── up0 ═══ p-h1 ┐
 *      h2 ── br0 ── up0 ═══ p-h2 ┼── sw0, in a namespace of its own
 *      client ───── up0 ═══ p-cl ┘
 *
 *  A container's link goes to its host's br0, so its address answers wherever the container is. Nothing of it is in
 *  the root namespace; removing the namespaces removes all. */
export class TestNetwork {
  readonly #id: string;

  private constructor(id: string) {
    this.#id = id;
  }

  static async make(id: string): Promise<TestNetwork> {
    const network = new TestNetwork(id);
    const name = network.namespace('switch');
    await run('ip', ['netns', 'add', name]);
    await network.#batch('switch', [
      'link set lo up',
      'link add sw0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0',
      'link set sw0 up',
    ]);
    return network;
  }

  /** The name of the namespace of `host`, below /run/netns. */
  namespace(host: string): string {
    return `ferry-${this.#id}-${host}`;
  }

  /** A machine with a bridge for containers, which has the machine's own address. */
  async addHost(host: string, address: string): Promise<void> {
    await this.#plug(host);
    await this.#batch(host, [
      'link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0',
      'link set up0 master br0',
      `address add ${address}/16 dev br0`,
      'link set br0 up',
    ]);
  }

  /** A machine without containers: a client, the controller. */
  async addPlain(host: string, address: string): Promise<void> {
    await this.#plug(host);
    await this.#batch(host, [`address add ${address}/16 dev up0`]);
  }

  /** The words to put before a command to have it run on `host`. Unlike "ip netns exec", which mounts a new /sys,
   *  this leaves /sys/fs/cgroup in sight. */
  on(host: string): string[] {
    return ['nsenter', `--net=/run/netns/${this.namespace(host)}`, '--'];
  }

  /** Takes a host's cable out, or puts it back. */
  async cable(host: string, state: 'up' | 'down'): Promise<void> {
    await this.#batch('switch', [`link set p-${host} ${state}`]);
  }

  async #plug(host: string): Promise<void> {
    const name = this.namespace(host);
    await run('ip', ['netns', 'add', name]);
    await this.#batch('switch', [
      `link add p-${host} type veth peer name up0 netns ${name}`,
      `link set p-${host} master sw0`,
      `link set p-${host} up`,
    ]);
    await this.#batch(host, ['link set lo up', 'link set up0 up']);
  }

  async #batch(host: string, lines: readonly string[]): Promise<void> {
    const input = `${lines.join('\n')}\n`;
    await run('ip', ['-n', this.namespace(host), '-batch', '-'], { input });
  }
}
