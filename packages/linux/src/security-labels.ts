import { tryReadProc } from './read.js';

/** Security modules whose labels bind a process and are seen from outside. */
export type SecurityModule = 'apparmor' | 'selinux';

/** What binds one thread; empty: nothing does. */
export interface SecurityLabelsRead {
  /** Profile, without its mode: that belongs to the profile. */
  readonly apparmor: string;
  /** Of a thread in a hat: the profile that it may go back to. */
  readonly apparmorPrevious: string;
  /** The profile that its next execve(2) was told to change to. */
  readonly apparmorOnExec: string;
  readonly selinux: string;
  /** Contexts of what it makes next (setexeccon(3), setfscreatecon(3), setkeycreatecon(3), setsockcreatecon(3)). */
  readonly selinuxExec: string;
  readonly selinuxFscreate: string;
  readonly selinuxKeycreate: string;
  readonly selinuxSockcreate: string;
}

/** Domains of the reference policy that bind nobody. */
const FREE_DOMAINS = /^[^:]+:[^:]+:(unconfined_t|unconfined_service_t|spc_t)(:|$)/;
const CONTEXT = /^[^:]+:[^:]+:[^:]+/;

/** Which of them this kernel has switched on.
 *  @param root  in place of / */
export function securityModules(root = ''): SecurityModule[] {
  const names = textOf(`${root}/sys/kernel/security/lsm`).split(',');
  const own = `${root}/proc/self/attr`;
  // Without securityfs, as in a container of an agent, a module that is on shows what it says of the asker.
  const hasAppArmor = names.includes('apparmor') || textOf(`${own}/apparmor/current`) !== '';
  const hasSelinux =
    names.includes('selinux') || (!hasAppArmor && CONTEXT.test(textOf(`${own}/current`)));
  return [
    ...(hasAppArmor ? ['apparmor' as const] : []),
    ...(hasSelinux ? ['selinux' as const] : []),
  ];
}

/** The labels of a thread, from its folder `attr`, which Linux 5.8 gave a folder for AppArmor. */
export function readSecurityLabels(
  folder: string,
  modules: readonly SecurityModule[],
): SecurityLabelsRead {
  const apparmor = (name: string): string =>
    modules.includes('apparmor') ? profileOf(textOf(`${folder}/apparmor/${name}`)) : '';
  const selinux = (name: string): string =>
    modules.includes('selinux') ? textOf(`${folder}/${name}`) : '';
  const context = selinux('current');
  return {
    apparmor: apparmor('current'),
    apparmorPrevious: apparmor('prev'),
    apparmorOnExec: apparmor('exec'),
    // Before a policy is loaded the kernel says "kernel".
    selinux: CONTEXT.test(context) && !FREE_DOMAINS.test(context) ? context : '',
    selinuxExec: selinux('exec'),
    selinuxFscreate: selinux('fscreate'),
    selinuxKeycreate: selinux('keycreate'),
    selinuxSockcreate: selinux('sockcreate'),
  };
}

/** The profiles of AppArmor that are loaded; undefined where that cannot be seen.
 *  @param root  in place of / */
export function loadedProfiles(root = ''): ReadonlySet<string> | undefined {
  const text = tryReadProc(`${root}/sys/kernel/security/apparmor/profiles`);
  if (text === undefined) return undefined;
  return new Set(utf8(text).split('\n').map(withoutMode));
}

/** `docker-default (enforce)` → `docker-default`; empty for one that binds nobody. */
function profileOf(text: string): string {
  const name = withoutMode(text);
  return name === 'unconfined' || text.endsWith(' (unconfined)') ? '' : name;
}

function withoutMode(text: string): string {
  return text.replace(/ \([a-z]+\)$/, '');
}

/** SELinux ends what it says with a NUL, AppArmor with a newline. */
function textOf(path: string): string {
  return utf8(tryReadProc(path) ?? '').replace(/[\0\n]+$/, '');
}

function utf8(latin1: string): string {
  return Buffer.from(latin1, 'latin1').toString('utf8');
}
