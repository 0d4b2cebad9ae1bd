import type { Blocker } from '@ferry/core';
import { SecurityLabels } from '@ferry/image';
import {
  listDirectory,
  readSecurityLabels,
  type SecurityLabelsRead,
  type SecurityModule,
  securityModules,
} from '@ferry/linux';

type Refusal = Pick<Blocker, 'code' | 'object' | 'reason' | 'remedy'>;

/** What binds the processes of a tree, each label once. */
export interface TreeLabels {
  readonly apparmor: string[];
  readonly selinux: string[];
}

/** A host switches its modules on when it starts. */
let ofThisHost: readonly SecurityModule[] | undefined;

/** The labels of each thread of a process; nothing is read where the host has no module that gives them.
 *  @param root  in place of / */
export function labelsOf(
  hostPid: number,
  modules: readonly SecurityModule[] = modulesHere(),
  root = '',
): ReadonlyMap<number, SecurityLabelsRead> {
  if (modules.length === 0) return new Map();
  const folder = `${root}/proc/${hostPid}/task`;
  const tids = listDirectory(folder).map(Number);
  return new Map(tids.map((tid) => [tid, readSecurityLabels(`${folder}/${tid}/attr`, modules)]));
}

function modulesHere(): readonly SecurityModule[] {
  ofThisHost ??= securityModules();
  return ofThisHost;
}

/** What of the labels of one process cannot be given to another one. */
export function labelRefusal(
  threads: ReadonlyMap<number, SecurityLabelsRead>,
): Refusal | undefined {
  const labels = [...threads.values()];
  for (const { apparmor, apparmorPrevious, apparmorOnExec, selinux } of labels) {
    if (apparmor.startsWith(':') || apparmor.includes('//&')) {
      return {
        code: 'label.stacked',
        object: `its AppArmor label ${apparmor}`,
        reason: 'stacked profiles, and those of a policy namespace, cannot be carried yet',
        remedy: 'run it under one profile of the host',
      };
    }
    if (apparmorPrevious !== '') {
      return {
        code: 'label.hat',
        object: `its AppArmor hat ${apparmor}`,
        reason: 'only the program knows the token with which it leaves the hat',
        remedy: 'try again once it has left it, or turn hats off in the program (mod_apparmor)',
      };
    }
    if (apparmorOnExec !== '') {
      return {
        code: 'label.onExec',
        object: `the AppArmor profile ${apparmorOnExec} of its next program`,
        reason: 'it is about to change its profile with its program (aa_change_onexec)',
        remedy: 'try again',
      };
    }
    if (selinux !== labels[0]?.selinux) {
      return {
        code: 'label.threads',
        object: `its SELinux context ${selinux}`,
        reason: 'one of its threads has a context of its own, which cannot be carried yet',
        remedy: 'give all threads of the process the same context',
      };
    }
  }
  return undefined;
}

/** As the image has them. */
export function imageLabels(read: SecurityLabelsRead | undefined): SecurityLabels | undefined {
  const labels = SecurityLabels.fromPartial(read ?? {});
  return Object.values(labels).some((label) => label !== '') ? labels : undefined;
}

/** What a destination must be able to give. */
export function treeLabels(all: readonly SecurityLabelsRead[]): TreeLabels {
  const each = (which: 'apparmor' | 'selinux'): string[] =>
    [...new Set(all.map((labels) => labels[which]))].filter((label) => label !== '').sort();
  return { apparmor: each('apparmor'), selinux: each('selinux') };
}
