import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Everything on this machine that belongs to one run of a test or of the demo. A run marks what it makes with its
 *  id: in the environment of its processes, in the names of control groups, namespaces and links, and in paths. */
export interface Traces {
  readonly processes: readonly { readonly pid: number; readonly what: string }[];
  /** Absolute paths below /sys/fs/cgroup, the deepest first. */
  readonly cgroups: readonly string[];
  /** Mount points, the last mounted first. */
  readonly mounts: readonly string[];
  readonly namespaces: readonly string[];
  /** Links of the root network namespace. */
  readonly links: readonly string[];
  readonly files: readonly string[];
}

/** The variable that marks a run's processes; programs that they start inherit it. */
export const RUN_VARIABLE = 'FERRY_TEST_RUN';
/** The variable that marks a trial's processes, with the trial's folder. */
export const TRIAL_VARIABLE = 'FERRY_TRIAL';

const NETNS_FOLDER = '/run/netns';
const FILE_FOLDERS = ['/tmp', '/run', '/var/tmp', '/dev/shm', '/run/runc', '/var/lib', '/var/log'];

/** Looks for everything of the run `id`; changes nothing. */
export function tracesOf(id: string): Traces {
  return {
    processes: processesOf(id),
    cgroups: cgroupsOf(id),
    mounts: mountsOf(id),
    namespaces: entries(NETNS_FOLDER).filter((name) => name.includes(id)),
    links: entries('/sys/class/net').filter((name) => name.includes(id)),
    files: FILE_FOLDERS.flatMap((folder) =>
      entries(folder)
        .filter((name) => name.includes(id))
        .map((name) => join(folder, name)),
    ),
  };
}

/** One line per trace. */
export function traceLines(traces: Traces): string[] {
  return [
    ...traces.processes.map(({ pid, what }) => `process ${pid} (${what})`),
    ...traces.cgroups.map((path) => `control group ${path}`),
    ...traces.mounts.map((path) => `mount ${path}`),
    ...traces.namespaces.map((name) => `network namespace ${name}`),
    ...traces.links.map((name) => `network link ${name}`),
    ...traces.files.map((path) => `file ${path}`),
  ];
}

function processesOf(id: string): { pid: number; what: string }[] {
  const namespaces = new Set(
    entries(NETNS_FOLDER)
      .filter((name) => name.includes(id))
      .map((name) => inode(join(NETNS_FOLDER, name))),
  );
  const mine = [`${RUN_VARIABLE}=${id}`, `${TRIAL_VARIABLE}=${join(tmpdir(), id)}`];
  const found: { pid: number; what: string }[] = [];
  for (const name of entries('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const command = text(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
    const netns = /\[(\d+)\]/.exec(link(`/proc/${pid}/ns/net`))?.[1];
    const belongs =
      text(`/proc/${pid}/environ`)
        .split('\0')
        .some((variable) => mine.includes(variable)) ||
      text(`/proc/${pid}/cgroup`).includes(id) ||
      (netns !== undefined && namespaces.has(netns));
    // A zombie holds nothing but its number until its parent looks.
    if (!belongs || /^State:\s+Z/m.test(text(`/proc/${pid}/status`))) continue;
    found.push({ pid, what: command === '' ? text(`/proc/${pid}/comm`).trim() : command });
  }
  return found;
}

function cgroupsOf(id: string): string[] {
  const found: string[] = [];
  const walk = (folder: string, depth: number): void => {
    for (const entry of directories(folder)) {
      const path = join(folder, entry);
      if (depth < 8) walk(path, depth + 1);
      if (path.includes(id)) found.push(path);
    }
  };
  walk('/sys/fs/cgroup', 0);
  return found;
}

function mountsOf(id: string): string[] {
  return (
    text('/proc/self/mountinfo')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      // A named network namespace is a mount as well; it is listed as what it is.
      .filter((path) => path.includes(id) && !path.startsWith(NETNS_FOLDER))
      .map((path) =>
        path.replace(/\\(\d{3})/g, (_, code) => String.fromCharCode(parseInt(code, 8))),
      )
      .reverse()
  );
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function directories(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function link(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function inode(path: string): string {
  try {
    return String(statSync(path).ino);
  } catch {
    return '';
  }
}
