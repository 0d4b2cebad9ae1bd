import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { FerryError } from '@ferry/core';
import { z } from 'zod';
import {
  allocateAddress,
  formatIpv4,
  formatIpv6,
  macForIpv4,
  pairedIpv6,
  parseIpv4,
  parseIpv6,
  parseRange4,
  parseSubnet4,
  parseSubnet6,
  subnet4Contains,
} from './addresses.js';
import { FirstPacketWatch } from './first-packet.js';
import { FrameCapture, sendFrames } from './frames.js';
import { announceHere, isAddressInUse } from './neighbour.js';
import { addNeighboursHere, type Neighbour, neighboursHere } from './neighbour-table.js';
import { setLinkMaster } from './netlink.js';
import { adoptNetns, createNetns, inNetns, isNetns, releaseNetns } from './netns.js';
import { mustRun, runCommand } from './run-command.js';
import { macSchema } from './spec.js';

/** The container's own end of its veth pair. */
const INSIDE = 'eth0';
/** What no configuration tells: a namespace takes it over from the host, as that is set then (net/ipv4/tcp_ipv4.c:
 *  tcp_sk_init). */
const INHERITED = ['net/ipv4/tcp_rmem', 'net/ipv4/tcp_wmem', 'net/ipv4/tcp_congestion_control'];
const FAST_OPEN_KEY = 'ipv4/tcp_fastopen_key';
const ANNOUNCE_AGAIN_MS = [100, 500];

export interface NetworkConfig {
  /** A bridge in the network namespace of the host. */
  readonly bridge: string;
  /** A file of the host's network namespace, where that is not the agent's own. */
  readonly hostNetns?: string | undefined;
  /** The L2 subnet that all hosts share: `10.77.0.0/24`. */
  readonly subnet: string;
  /** What this host gives out, apart from other hosts' ranges: `10.77.0.10-10.77.0.99`. Default:
   *  the whole subnet. */
  readonly range?: string | undefined;
  readonly gateway?: string | undefined;
  readonly subnet6?: string | undefined;
  readonly gateway6?: string | undefined;
  readonly mtu?: number | undefined;
}

/** The addresses of a container; they move with it. */
export const addressesSchema = z.strictObject({
  address: z.ipv4(),
  prefix: z.number().int().min(1).max(32),
  gateway: z.ipv4().optional(),
  address6: z.ipv6().optional(),
  prefix6: z.number().int().min(1).max(128).optional(),
  gateway6: z.ipv6().optional(),
  mac: macSchema,
});
export type Addresses = z.output<typeof addressesSchema>;

/** As the kernel writes it: one key, or one and that before it. */
export const fastOpenKeySchema = z
  .string()
  .regex(/^[0-9a-f]{8}(-[0-9a-f]{8}){3}(,[0-9a-f]{8}(-[0-9a-f]{8}){3})?$/);

interface Options {
  readonly signal?: AbortSignal | undefined;
}

/** One container's place in the network: which namespace file, which veth. */
export interface Port {
  readonly netns: string;
  readonly veth: string;
}

/** Makes the bridge where it does not exist, with a MAC address of its own, and brings it up.
 *  @param options.address  an address of the host on it, with prefix: `10.77.0.1/24` */
export async function ensureBridge(
  bridge: string,
  options: Options & { address?: string | undefined; hostNetns?: string | undefined } = {},
): Promise<void> {
  const { address, hostNetns, signal } = options;
  const [program = '', ...prefix] = ipCommand(hostNetns);
  const ip = (args: string[]) => mustRun(program, [...prefix, ...args], { signal });
  const show = [...prefix, 'link', 'show', 'dev', bridge];
  const found = await runCommand(program, show, { signal });
  if (found.status !== 0) {
    // An address given once stays; a bridge without one takes that of a port, another with each
    // port that goes.
    const bytes = randomBytes(5).toString('hex').match(/../g) ?? [];
    const mac = ['02', ...bytes].join(':');
    await ip(['link', 'add', bridge, 'address', mac, 'type', 'bridge']);
  }
  if (address !== undefined) await ip(['addr', 'replace', address, 'dev', bridge]);
  await ip(['link', 'set', bridge, 'up']);
}

export class ContainerNetwork {
  readonly #config: NetworkConfig;
  readonly #nodeId: string;

  constructor(config: NetworkConfig, nodeId: string) {
    this.#config = config;
    this.#nodeId = nodeId;
  }

  /** The host's end of a container's veth pair: unique on the machine, at most 15 bytes. */
  vethName(name: string): string {
    const hash = createHash('sha256').update(`${this.#nodeId}\0${name}`).digest('hex');
    return `fy${hash.slice(0, 12)}`;
  }

  /** Addresses for a new container: as asked for, else the lowest of the range that no container
   *  here has and that nobody on the bridge answers for.
   *  @param taken  IPv4 addresses known to be in use
   *  @throws FerryError container.address */
  async allocate(
    asked: {
      address?: string | undefined;
      address6?: string | undefined;
      mac?: string | undefined;
    },
    taken: readonly string[],
    options: Options = {},
  ): Promise<Addresses> {
    const { subnet, range, gateway, subnet6, gateway6, bridge, hostNetns } = this.#config;
    const subnet4 = parseSubnet4(subnet);
    const used = new Set([...taken, ...(await this.#bridgeAddresses(options))].map(parseIpv4));
    if (gateway !== undefined) used.add(parseIpv4(gateway));
    let address: number;
    if (asked.address === undefined) {
      const bounds = parseRange4(range, subnet4);
      for (;;) {
        address = allocateAddress(bounds, used);
        if (!(await isAddressInUse(bridge, address, { ...options, hostNetns }))) break;
        used.add(address);
      }
    } else {
      address = this.checkFree(asked.address, taken);
    }
    const pair = subnet6 === undefined ? undefined : parseSubnet6(subnet6);
    const address6 =
      asked.address6 ??
      (pair === undefined ? undefined : formatIpv6(pairedIpv6(pair, subnet4, address)));
    return {
      address: formatIpv4(address),
      prefix: subnet4.prefix,
      ...(gateway === undefined ? {} : { gateway }),
      ...(address6 === undefined ? {} : { address6, prefix6: pair?.prefix ?? 64 }),
      ...(address6 === undefined || gateway6 === undefined ? {} : { gateway6 }),
      mac: asked.mac ?? macForIpv4(address),
    };
  }

  /** The host's own addresses on the bridge: it does not answer its own question for them. */
  async #bridgeAddresses(options: Options): Promise<string[]> {
    const [program = '', ...prefix] = ipCommand(this.#config.hostNetns);
    const args = [...prefix, '-4', '-o', 'addr', 'show', 'dev', this.#config.bridge];
    const text = (await mustRun(program, args, options)).stdout.toString('utf8');
    return [...text.matchAll(/ inet (\d+\.\d+\.\d+\.\d+)/g)].map((match) => match[1] as string);
  }

  /** An address that is asked for by its number: in the subnet, and no other container's here.
   *  @throws FerryError container.address */
  checkFree(text: string, taken: readonly string[]): number {
    const { subnet, gateway } = this.#config;
    const address = parseIpv4(text);
    if (!subnet4Contains(parseSubnet4(subnet), address)) {
      throw new FerryError('container.address', `Address ${text} is not in the subnet ${subnet}`, {
        remedy: 'containers move between hosts that share one subnet',
      });
    }
    if (text === gateway || taken.includes(text)) {
      throw new FerryError('container.address', `Address ${text} is taken on this host`);
    }
    return address;
  }

  /** Makes the namespace with its device, addresses and routes. The container is not connected yet:
   *  nothing it sends leaves, nothing reaches it, until `connect`. On failure nothing is left.
   *  @param options.pid  of a process that has a new namespace already: that one */
  async create(
    port: Port,
    addresses: Addresses,
    options: Options & { pid?: number | undefined } = {},
  ): Promise<void> {
    const { netns, veth } = port;
    const { signal, pid } = options;
    const mtu = this.#config.mtu === undefined ? '' : ` mtu ${this.#config.mtu}`;
    // A high first byte: a bridge takes the lowest address of its ports for its own, and must not
    // change it.
    const outside = `fe${addresses.mac.slice(2)}`;
    const host = ipCommand(this.#config.hostNetns);
    if (pid === undefined) await createNetns(netns);
    else await adoptNetns(netns, pid);
    try {
      const pair =
        `link add name ${veth} address ${outside}${mtu} type veth ` +
        `peer name ${INSIDE} address ${addresses.mac}${mtu} netns ${netns}`;
      await ipBatch(host, [pair, `link set ${veth} addrgenmode none`], signal);
      // What arrives while it is not in the bridge goes to the host's own stack, which must not
      // answer.
      this.#onHost(() => {
        setSysctl(`ipv4/conf/${veth}/arp_ignore`, '8');
        setSysctl(`ipv6/conf/${veth}/disable_ipv6`, '1');
      });
      inNetns(netns, () => setSysctl(`ipv6/conf/${INSIDE}/accept_dad`, '0'));
      await ipBatch(ipCommand(netns), insideCommands(addresses), signal);
      await ipBatch(host, [`link set ${veth} up`], signal);
    } catch (error) {
      await this.release(port);
      throw error;
    }
  }

  /** What a new namespace has taken over from this host, by path below /proc/sys. To be asked before anything of the
   *  container runs. */
  givenSettings({ netns }: Port): Record<string, string> {
    return inNetns(netns, () =>
      Object.fromEntries(
        INHERITED.flatMap((name) => {
          try {
            return [[name, readFileSync(`/proc/sys/${name}`, 'utf8').trim()]];
          } catch {
            return []; // of another kernel
          }
        }),
      ),
    );
  }

  /** Undefined while it has none. */
  fastOpenKey({ netns }: Port): string | undefined {
    try {
      const key = inNetns(netns, () =>
        readFileSync(`/proc/sys/net/${FAST_OPEN_KEY}`, 'utf8').trim(),
      );
      return /[1-9a-f]/.test(key) ? fastOpenKeySchema.parse(key) : undefined;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // of another kernel
      throw error;
    }
  }

  /** Lets cookies that clients have of another host be good here. The kernel makes no key where there is one. */
  setFastOpenKey({ netns }: Port, key: string): void {
    inNetns(netns, () => setSysctl(FAST_OPEN_KEY, key));
  }

  /** Joins the bridge (also after `lock`), and tells the neighbours. */
  connect(port: Port, addresses: Addresses): void {
    this.#onHost(() => setLinkMaster(port.veth, this.#config.bridge));
    this.announce(port, addresses);
    for (const delayMs of ANNOUNCE_AGAIN_MS) this.#announceLater(port, addresses, delayMs);
  }

  /** Drops everything from and to the container at once, by taking its port out of the bridge. The
   *  container's device keeps its carrier: nobody sees anything but lost packets. (Disabling the
   *  port within the bridge is no help: the bridge enables it again on the next change of the
   *  device, net/bridge/br_if.c:br_port_carrier_check.) */
  lock(port: Port): void {
    this.#onHost(() => setLinkMaster(port.veth, undefined));
  }

  /** Whom a container has found in its network. */
  neighbours(port: Port): Neighbour[] {
    return inNetns(port.netns, () => neighboursHere(INSIDE));
  }

  /** Makes known to a container whom it had found from another host: it need not ask for them again. All hosts share one
   *  subnet, so they are where they were; but addresses that this host has itself another one may have had as well, a
   *  gateway's. */
  addNeighbours(port: Port, neighbours: readonly Neighbour[]): void {
    if (neighbours.length === 0) return;
    const { bridge } = this.#config;
    const own = this.#onHost(() => networkInterfaces()[bridge] ?? []).map(({ family, address }) =>
      family === 'IPv4' ? BigInt(parseIpv4(address)) : parseIpv6(address),
    );
    const others = neighbours.filter(
      ({ address }) => !own.includes(BigInt(`0x${address.toString('hex')}`)),
    );
    inNetns(port.netns, () => addNeighboursHere(INSIDE, others));
  }

  /** Watches for frames to a container, from before it is locked until it is connected again, here or elsewhere. */
  captureFrames(addresses: Addresses): FrameCapture {
    const { bridge } = this.#config;
    return this.#onHost(() => new FrameCapture(bridge, addresses));
  }

  /** Watches for the first packet of a container that does not run yet. */
  watchFirstPacket(port: Port, { mac }: Addresses): FirstPacketWatch {
    return this.#onHost(() => new FirstPacketWatch(port.veth, mac));
  }

  /** Gives a container frames that were captured for it, in order. */
  deliverFrames(port: Port, frames: readonly Buffer[]): void {
    this.#onHost(() => sendFrames(port.veth, frames));
  }

  /** Sends gratuitous ARP and an unsolicited neighbour advertisement from inside the container's
   *  namespace. */
  announce(port: Port, addresses: Addresses): void {
    inNetns(port.netns, () => announceHere(INSIDE, addresses));
  }

  /** Makes the namespace file good again where it was lost with an earlier agent's mount
   *  namespace. */
  async adopt(port: Port, pid: number): Promise<void> {
    if (!isNetns(port.netns)) await adoptNetns(port.netns, pid);
  }

  /** Removes the device and lets go of the namespace. What is not there is no error. */
  async release(port: Port): Promise<void> {
    const [program = '', ...prefix] = ipCommand(this.#config.hostNetns);
    const result = await runCommand(program, [...prefix, 'link', 'delete', port.veth]);
    const said = result.stderr.toString('utf8');
    await releaseNetns(port.netns);
    if (result.status !== 0 && !/Cannot find device/.test(said)) {
      throw new FerryError(
        'container.network',
        `Device ${port.veth} was not removed: ${said.trim()}`,
      );
    }
  }

  #onHost<T>(work: () => T): T {
    const { hostNetns } = this.#config;
    return hostNetns === undefined ? work() : inNetns(hostNetns, work);
  }

  #announceLater(port: Port, addresses: Addresses, delayMs: number): void {
    const timer = setTimeout(() => {
      try {
        this.announce(port, addresses);
      } catch {
        // The container has gone in the meantime.
      }
    }, delayMs);
    timer.unref();
  }
}

/** What `create` puts into a container's network, in hexadecimal digits as the kernel has it. Pure. */
export function givenNetwork(addresses: Addresses): {
  device: string;
  mac: string;
  addresses: { address: string; prefix: number }[];
  gateways: string[];
} {
  const { address, prefix, gateway, address6, prefix6, gateway6, mac } = addresses;
  const four = (text: string) => parseIpv4(text).toString(16).padStart(8, '0');
  const six = (text: string) => parseIpv6(text).toString(16).padStart(32, '0');
  return {
    device: INSIDE,
    mac: mac.replaceAll(':', '').toLowerCase(),
    addresses: [
      { address: four(address), prefix },
      ...(address6 === undefined ? [] : [{ address: six(address6), prefix: prefix6 ?? 64 }]),
    ],
    gateways: [
      ...(gateway === undefined ? [] : [four(gateway)]),
      ...(gateway6 === undefined ? [] : [six(gateway6)]),
    ],
  };
}

function insideCommands(addresses: Addresses): string[] {
  const { address, prefix, gateway, address6, prefix6, gateway6 } = addresses;
  const commands = ['link set lo up', `addr add ${address}/${prefix} brd + dev ${INSIDE}`];
  if (address6 !== undefined)
    commands.push(`addr add ${address6}/${prefix6 ?? 64} dev ${INSIDE} nodad`);
  commands.push(`link set ${INSIDE} up`);
  if (gateway !== undefined) commands.push(`route add default via ${gateway}`);
  if (gateway6 !== undefined) commands.push(`route add default via ${gateway6} dev ${INSIDE}`);
  return commands;
}

/** `ip`, run in the namespace of a file, or here. */
function ipCommand(netns: string | undefined): string[] {
  return netns === undefined ? ['ip'] : ['nsenter', `--net=${netns}`, 'ip'];
}

async function ipBatch(
  command: readonly string[],
  commands: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const [program = 'ip', ...args] = [...command, '-batch', '-'];
  const result = await runCommand(program, args, { signal, input: `${commands.join('\n')}\n` });
  if (result.status === 0) return;
  throw new FerryError(
    'container.network',
    `The container's network could not be made: ${result.stderr.toString('utf8').trim()}`,
  );
}

/** Sets a switch of the calling thread's network namespace; a kernel without IPv6 has no such
 *  file. */
function setSysctl(path: string, value: string): void {
  try {
    writeFileSync(`/proc/sys/net/${path}`, value);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
