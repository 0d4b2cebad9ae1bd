/** A line of proc_pid_mountinfo(5). */
export interface MountLine {
  readonly id: number;
  readonly parentId: number;
  /** As stat(2) has it. */
  readonly device: bigint;
  readonly root: string;
  readonly mountpoint: string;
  readonly flags: readonly string[];
  readonly shared: number;
  readonly master: number;
  readonly unbindable: boolean;
  readonly type: string;
  readonly source: string;
  readonly options: string;
}

/** MOUNT_ATTR_* of mount_setattr(2). */
const ATTRIBUTE: Readonly<Record<string, bigint>> = {
  ro: 0x1n,
  nosuid: 0x2n,
  nodev: 0x4n,
  noexec: 0x8n,
  noatime: 0x10n,
  nodiratime: 0x80n,
  nosymfollow: 0x200000n,
};
const STRICTATIME = 0x20n;

export function parseMountInfo(text: string): MountLine[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(parseLine);
}

function parseLine(line: string): MountLine {
  const [mount, system] = split(line);
  const [id, parentId, device, root, mountpoint, flags, ...optional] = mount.split(' ');
  const [type, source, options] = system.split(' ');
  const [major, minor] = device!.split(':').map(BigInt) as [bigint, bigint];
  const tagged = (tag: string): number => {
    const field = optional.find((candidate) => candidate.startsWith(`${tag}:`));
    return Number(field?.slice(tag.length + 1) ?? 0);
  };
  return {
    id: Number(id),
    parentId: Number(parentId),
    device: makeDevice(major, minor),
    root: unescaped(root!),
    mountpoint: unescaped(mountpoint!),
    flags: flags!.split(','),
    shared: tagged('shared'),
    master: tagged('master'),
    unbindable: optional.includes('unbindable'),
    type: type!,
    source: unescaped(source ?? ''),
    options: unescaped(options ?? ''),
  };
}

function split(line: string): [string, string] {
  const at = line.indexOf(' - ');
  return [line.slice(0, at), line.slice(at + 3)];
}

/** Octal escapes of blanks, tabs, newlines and backslashes. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The kernel's device number for user space: glibc's makedev(3). */
function makeDevice(major: bigint, minor: bigint): bigint {
  return (
    ((major & 0xfffff000n) << 32n) |
    ((major & 0xfffn) << 8n) |
    ((minor & 0xffffff00n) << 12n) |
    (minor & 0xffn)
  );
}

/** A mount's own flags as mount_setattr(2) takes them. */
export function attributesOf({ flags }: MountLine): bigint {
  let attributes = 0n;
  for (const flag of flags) attributes |= ATTRIBUTE[flag] ?? 0n;
  if (!flags.includes('relatime') && !flags.includes('noatime')) attributes |= STRICTATIME;
  return attributes;
}
