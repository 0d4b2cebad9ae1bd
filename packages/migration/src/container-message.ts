import type { Container, ContainerSpec } from '@ferry/api';
import type { ContainerRecord, ContainerStatus, RunSpec } from '@ferry/container';

/** A container's spec as the API has it, from what the host keeps. */
export function specMessage(record: ContainerRecord): ContainerSpec {
  const { spec, network } = record;
  const { image, user } = spec;
  return {
    name: record.name,
    rootfs: image.kind === 'rootfs' ? image.path : '',
    bundle: image.kind === 'bundle' ? image.path : '',
    args: spec.args ?? [],
    env: Object.entries(spec.env).map(([name, value]) => `${name}=${value}`),
    cwd: spec.cwd ?? '',
    hostname: spec.hostname ?? '',
    uid: user?.uid,
    gid: user?.gid,
    memoryLimitBytes: BigInt(spec.memoryLimitBytes ?? 0),
    cpuLimitMillis: Math.round((spec.cpus ?? 0) * 1000),
    readOnlyRootfs: spec.readonly ?? false,
    mounts: spec.mounts.flatMap((mount) =>
      mount.kind === 'bind'
        ? [{ source: mount.source, destination: mount.destination, readOnly: mount.readonly }]
        : [],
    ),
    labels: spec.labels,
    network: {
      address: `${network.address}/${network.prefix}`,
      gateway: network.gateway ?? '',
      mac: network.mac,
    },
  };
}

/** The other way: what the host is asked to run. */
export function runSpec(spec: ContainerSpec): RunSpec {
  const address = spec.network?.address.split('/')[0] ?? '';
  const mac = spec.network?.mac ?? '';
  const { uid, gid } = spec;
  return {
    name: spec.name,
    image:
      spec.bundle === ''
        ? { kind: 'rootfs', path: spec.rootfs }
        : { kind: 'bundle', path: spec.bundle },
    ...(spec.args.length === 0 ? {} : { args: spec.args }),
    env: Object.fromEntries(spec.env.map(splitVariable)),
    ...(spec.cwd === '' ? {} : { cwd: spec.cwd }),
    ...(spec.hostname === '' ? {} : { hostname: spec.hostname }),
    ...(uid === undefined && gid === undefined ? {} : { user: { uid: uid ?? 0, gid: gid ?? 0 } }),
    ...(spec.memoryLimitBytes === 0n ? {} : { memoryLimitBytes: Number(spec.memoryLimitBytes) }),
    ...(spec.cpuLimitMillis === 0 ? {} : { cpus: spec.cpuLimitMillis / 1000 }),
    ...(spec.readOnlyRootfs ? { readonly: true } : {}),
    mounts: spec.mounts.map((mount) => ({
      kind: 'bind' as const,
      source: mount.source,
      destination: mount.destination,
      readonly: mount.readOnly,
    })),
    labels: spec.labels,
    network: {
      ...(address === '' ? {} : { address }),
      ...(mac === '' ? {} : { mac }),
    },
  };
}

function splitVariable(text: string): [string, string] {
  const at = text.indexOf('=');
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

/** What the API says of a container here.
 *  @param outgoing  its migration to another host is past COMMIT: it is frozen, and no longer ours to run */
export function containerMessage(
  status: ContainerStatus,
  extra: { memoryBytes: number; outgoing: boolean },
): Container {
  const { record, exit } = status;
  const created = Date.parse(record.createdAt);
  return {
    name: record.name,
    node: '',
    state: extra.outgoing ? 'frozen' : stateOf(status),
    epoch: BigInt(record.epoch),
    spec: specMessage(record),
    pid: status.pid ?? 0,
    exitStatus: exit === undefined ? undefined : (exit.status ?? 128),
    address: record.network.address,
    memoryBytes: BigInt(extra.memoryBytes),
    createdAtMs: BigInt(created),
    startedAtMs: BigInt(created),
    operation: '',
  };
}

function stateOf({ record, state }: ContainerStatus): string {
  switch (record.phase) {
    case 'creating':
    case 'created':
      return 'starting';
    case 'incoming':
    case 'restoring':
      return 'receiving';
    default:
      return state === 'running' || state === 'paused' ? 'running' : 'exited';
  }
}
