import { chmod, chown, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FerryError } from '@ferry/core';
import { z } from 'zod';
import type { OciConfig } from './oci-config.js';

/** A container whose users are other ones outside (user_namespaces(7)): "user" among the namespaces of its configuration,
 *  and which ids of the host its own are. Its files lie on disk with the host's ids, in layers and archives too, so they
 *  have the same owners inside wherever the same maps are. */

/** (uid_t)-1 is nobody's, and may not be mapped (kernel/user_namespace.c: map_write). */
const ID_MAX = 0xfffffffe;
/** kernel/user_namespace.c: UID_GID_MAP_MAX_EXTENTS. */
const RANGES_MAX = 340;

const idSchema = z.number().int().min(0).max(ID_MAX);

/** A range of ids, as the container calls them and as the host does. */
const idRangeSchema = z
  .strictObject({
    containerID: idSchema,
    hostID: idSchema,
    size: z
      .number()
      .int()
      .min(1)
      .max(ID_MAX + 1),
  })
  .refine(({ containerID, hostID, size }) => Math.max(containerID, hostID) + size - 1 <= ID_MAX, {
    error: 'the range goes beyond the last id, 4294967294',
  });
type IdRange = z.output<typeof idRangeSchema>;

/** Where the container's root is, and no id twice: what the kernel would refuse when the container is made, or else when it
 *  is made again on another host. */
export const idMapSchema = z
  .array(idRangeSchema)
  .max(RANGES_MAX)
  .refine((ranges) => outerId(ranges, 0) !== undefined, { error: 'id 0 is not mapped' })
  .refine((ranges) => !overlap(ranges, 'containerID'), {
    error: 'an id of the container is mapped twice',
  })
  .refine((ranges) => !overlap(ranges, 'hostID'), { error: 'an id of the host is mapped twice' });

function overlap(ranges: readonly IdRange[], side: 'containerID' | 'hostID'): boolean {
  const sorted = ranges.toSorted((a, b) => a[side] - b[side]);
  return sorted.some((range, index) => {
    const before = sorted[index - 1];
    return before !== undefined && before[side] + before.size > range[side];
  });
}

/** What is wrong with the namespaces and maps of a configuration as a whole; undefined: nothing. */
export function userNamespaceFault(linux: {
  readonly namespaces: readonly { readonly type: string; readonly path?: string | undefined }[];
  readonly uidMappings?: unknown;
  readonly gidMappings?: unknown;
}): string | undefined {
  const user = linux.namespaces.filter(({ type }) => type === 'user');
  const maps = [linux.uidMappings, linux.gidMappings].filter((map) => map !== undefined).length;
  if (user.length === 0) return maps === 0 ? undefined : 'id mappings without a user namespace';
  if (user.length > 1) return 'it has two user namespaces';
  if (user[0]?.path !== undefined) return 'it joins a user namespace, which is on one host only';
  return maps === 2 ? undefined : 'a user namespace needs uidMappings and gidMappings';
}

export function hasUserNamespace({ linux }: OciConfig): boolean {
  return linux.namespaces.some(({ type }) => type === 'user');
}

/** The host's ids of the container's root; undefined where it is the host's own. */
export function hostRoot({ linux }: OciConfig): { uid: number; gid: number } | undefined {
  const [uid, gid] = [outerId(linux.uidMappings, 0), outerId(linux.gidMappings, 0)];
  return uid === undefined || gid === undefined ? undefined : { uid, gid };
}

/** The program of a container can be somebody only who is mapped.
 *  @throws FerryError container.spec */
export function checkMapped({ process, linux }: OciConfig): void {
  const { uidMappings: uids, gidMappings: gids } = linux;
  if (uids === undefined || gids === undefined) return;
  const { uid, gid, additionalGids = [] } = process.user;
  const lost = [
    ...(outerId(uids, uid) === undefined ? [`user ${uid}`] : []),
    ...[gid, ...additionalGids]
      .filter((id) => outerId(gids, id) === undefined)
      .map((id) => `group ${id}`),
  ];
  if (lost.length === 0) return;
  const text = `The program is to run as ${lost.join(', ')}, and its user namespace does not map that`;
  throw new FerryError('container.spec', text, {
    remedy: 'map it in linux.uidMappings and linux.gidMappings, or choose a mapped one',
  });
}

function outerId(ranges: readonly IdRange[] | undefined, id: number): number | undefined {
  const range = ranges?.find((r) => id >= r.containerID && id < r.containerID + r.size);
  return range === undefined ? undefined : range.hostID + id - range.containerID;
}

/** Lets a container's root, who is nobody on the host, reach its root file system: the runtime goes there by its path once it
 *  is in the user namespace. Others may pass through the state folder, not into `folder`.
 *  @throws FerryError container.host for a folder above that does not let it pass */
export async function letRootReach(
  root: { readonly uid: number; readonly gid: number },
  places: { readonly stateDir: string; readonly above: readonly string[]; readonly folder: string },
): Promise<void> {
  for (let path = dirname(places.stateDir); ; path = dirname(path)) {
    const about = await stat(path);
    const bit = about.uid === root.uid ? 0o100 : about.gid === root.gid ? 0o010 : 0o001;
    if ((about.mode & bit) === 0) {
      const text = `Folder ${path} lets user ${root.uid} not pass, who is root in the container`;
      throw new FerryError('container.host', text, {
        remedy: `allow others to pass (chmod o+x ${path}), or choose another state folder`,
      });
    }
    if (path === dirname(path)) break;
  }
  for (const path of [places.stateDir, ...places.above]) {
    const { mode } = await stat(path);
    if ((mode & 0o001) === 0) await chmod(path, (mode & 0o7777) | 0o001);
  }
  await chown(places.folder, 0, root.gid);
  await chmod(places.folder, 0o710);
}
