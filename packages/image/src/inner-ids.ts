import type { TreeImage } from './generated/ferry/image/v1/tree.js';

const USERS: ReadonlySet<string> = new Set([
  ...['uid', 'euid', 'suid', 'fsuid', 'ownerUid', 'loginuid'],
]);
const GROUPS: ReadonlySet<string> = new Set(['gid', 'egid', 'sgid', 'fsgid', 'groups']);

/** Ids of users or groups as a user namespace shows them, by the text of /proc/PID/uid_map or gid_map
 *  (user_namespaces(7)). */
export class IdMap {
  readonly #ranges: readonly { inner: number; outer: number; length: number }[];

  constructor(text: string) {
    this.#ranges = text
      .trim()
      .split('\n')
      .filter((line) => line.trim() !== '')
      .map((line) => {
        const [inner = 0, outer = 0, length = 0] = line.trim().split(/\s+/).map(Number);
        return { inner, outer, length };
      });
  }

  /** undefined for one that has no number there. */
  inner(outer: number): number | undefined {
    const range = this.#ranges.find((r) => outer >= r.outer && outer < r.outer + r.length);
    return range === undefined ? undefined : outer - range.outer + range.inner;
  }

  /** The other way round. */
  outer(inner: number): number | undefined {
    const range = this.#ranges.find((r) => inner >= r.inner && inner < r.inner + r.length);
    return range === undefined ? undefined : inner - range.inner + range.outer;
  }
}

/** Puts into every place of an image that names a user or a group what the user namespace of the tree's root calls it.
 *  What it has no number for stays. */
export function useInnerIds(
  image: TreeImage,
  { users, groups }: { users: IdMap; groups: IdMap },
): void {
  translate(image, users, groups);
  for (const namespace of image.namespaces) {
    for (const setting of namespace.settings) {
      if (setting.name === GROUP_RANGE) setting.value = innerRange(setting.value, groups);
    }
  }
}

/** Its numbers are those of whoever reads it (ipv4_ping_group_range, net/ipv4/sysctl_net_ipv4.c). */
const GROUP_RANGE = 'net/ipv4/ping_group_range';

function innerRange(value: Uint8Array, groups: IdMap): Buffer {
  const [from = 1, to = 0] = Buffer.from(value).toString().trim().split(/\s+/).map(Number);
  return Buffer.from(`${groups.inner(from) ?? from}\t${groups.inner(to) ?? to}\n`);
}

function translate(value: object, users: IdMap, groups: IdMap): void {
  for (const [key, field] of Object.entries(value)) {
    const map = USERS.has(key) ? users : GROUPS.has(key) ? groups : undefined;
    if (map !== undefined) {
      const inner = (id: unknown) => (typeof id === 'number' ? (map.inner(id) ?? id) : id);
      Object.assign(value, { [key]: Array.isArray(field) ? field.map(inner) : inner(field) });
    } else if (key === 'options' && typeof field === 'string') {
      Object.assign(value, { options: innerOptions(field, { users, groups }) });
    } else if (field !== null && typeof field === 'object' && !ArrayBuffer.isView(field)) {
      translate(field, users, groups);
    }
  }
}

/** Mount options: devpts and tmpfs show the ids of the first user namespace (fs/devpts/inode.c: devpts_show_options). */
function innerOptions(options: string, { users, groups }: { users: IdMap; groups: IdMap }): string {
  return options.replaceAll(
    /(?<=^|,)(uid|gid)=(\d+)(?=,|$)/g,
    (whole, name: string, id: string) => {
      const inner = (name === 'uid' ? users : groups).inner(Number(id));
      return inner === undefined ? whole : `${name}=${inner}`;
    },
  );
}
