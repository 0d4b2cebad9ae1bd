import { z } from 'zod';

/** What a container is to be: the input of `create`, kept in its record, and carried with it. */

const absolutePath = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, 'an absolute path')
  .refine((path) => !path.split('/').includes('..'), 'a path without ".."');
const count = z.number().int().nonnegative();

export const containerNameSchema = z
  .string()
  .regex(
    /^[a-z0-9][a-z0-9_.-]{0,62}$/,
    'a name of [a-z0-9_.-], at most 63, starting with [a-z0-9]',
  );

const programImage = z.strictObject({
  kind: z.literal('program'),
  /** Programs of this host, put at the same paths together with their libraries and
   *  interpreters. */
  programs: z.array(absolutePath).min(1).max(256),
  /** Files or folders of this host copied in; libraries that ELF files among them need come
   *  along. */
  copy: z.array(z.strictObject({ from: absolutePath, to: absolutePath.optional() })).default([]),
  /** Files with given content. */
  files: z
    .array(
      z.strictObject({
        path: absolutePath,
        content: z.string(),
        mode: z.number().int().min(0).max(0o7777).default(0o644),
      }),
    )
    .default([]),
  links: z.array(z.strictObject({ path: absolutePath, target: z.string().min(1) })).default([]),
});

const imageSchema = z.discriminatedUnion('kind', [
  programImage,
  /** An existing root file system. */
  z.strictObject({ kind: z.literal('rootfs'), path: absolutePath }),
  /** An OCI bundle: its config.json is what the other fields of the spec are laid over. */
  z.strictObject({ kind: z.literal('bundle'), path: absolutePath }),
]);
export type ProgramImage = z.output<typeof programImage>;

const mountSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('tmpfs'),
    destination: absolutePath,
    sizeBytes: count.optional(),
    mode: z.number().int().min(0).max(0o7777).default(0o1777),
  }),
  /** A folder or file of the host. It does not move: the same path must exist on the
   *  destination. */
  z.strictObject({
    kind: z.literal('bind'),
    source: absolutePath,
    destination: absolutePath,
    readonly: z.boolean().default(false),
  }),
]);

const capabilityName = z.string().regex(/^(CAP_)?[A-Z_]+$/, 'a capability such as CAP_NET_ADMIN');
const ipv4 = z.string().regex(/^\d{1,3}(\.\d{1,3}){3}$/, 'an IPv4 address');
const ipv6 = z.string().regex(/^[0-9a-fA-F:]+$/, 'an IPv6 address');
export const macSchema = z.string().regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/, 'a MAC address');

export const runSpecSchema = z.strictObject({
  name: containerNameSchema,
  image: imageSchema,
  /** Default for a bundle: the bundle's own; required otherwise. */
  args: z.array(z.string()).max(4096).optional(),
  env: z.record(z.string().regex(/^[^=\0]+$/), z.string()).default({}),
  cwd: absolutePath.optional(),
  user: z
    .strictObject({ uid: count, gid: count, additionalGids: z.array(count).default([]) })
    .optional(),
  /** Default: the name (for a bundle: the bundle's own). */
  hostname: z.string().max(64).optional(),
  memoryLimitBytes: count.optional(),
  cpus: z.number().positive().max(4096).optional(),
  pidsLimit: count.optional(),
  mounts: z.array(mountSchema).max(256).default([]),
  capabilities: z
    .strictObject({
      add: z.array(capabilityName).default([]),
      drop: z.array(capabilityName.or(z.literal('ALL'))).default([]),
    })
    .default({ add: [], drop: [] }),
  /** An object is an OCI `linux.seccomp`. Default: 'none' (for a bundle: the bundle's own). */
  seccomp: z
    .union([z.literal('none'), z.literal('default'), z.record(z.string(), z.unknown())])
    .optional(),
  noNewPrivileges: z.boolean().optional(),
  readonly: z.boolean().optional(),
  rlimits: z
    .array(z.strictObject({ type: z.string().regex(/^RLIMIT_[A-Z]+$/), soft: count, hard: count }))
    .optional(),
  sysctl: z.record(z.string().regex(/^[a-z0-9_.-]+$/), z.string()).default({}),
  stopSignal: z
    .string()
    .regex(/^SIG[A-Z0-9]+$/)
    .default('SIGTERM'),
  labels: z.record(z.string(), z.string()).default({}),
  network: z
    .strictObject({
      address: ipv4.optional(),
      address6: ipv6.optional(),
      mac: macSchema.optional(),
    })
    .default({}),
});

/** A spec as a caller writes it: what has a default may be left out. */
export type RunSpec = z.input<typeof runSpecSchema>;
/** A spec with every default filled in. */
export type CheckedSpec = z.output<typeof runSpecSchema>;
