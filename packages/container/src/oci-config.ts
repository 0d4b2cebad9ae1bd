import { z } from 'zod';
import { idMapSchema, userNamespaceFault } from './user-namespace.js';

/** The parts of an OCI runtime configuration (runtime-spec 1.0.2) that Ferry reads or writes.
 *  Strict where the configuration decides what touches the host: a hook, for one, is a program of
 *  the host and cannot move. */

const strings = z.array(z.string());
const number = z.number();

const capabilitySets = z.strictObject({
  bounding: strings.default([]),
  effective: strings.default([]),
  permitted: strings.default([]),
  inheritable: strings.default([]),
  ambient: strings.default([]),
});

const processSchema = z.strictObject({
  terminal: z.literal(false).default(false),
  user: z.strictObject({
    uid: number,
    gid: number,
    umask: number.optional(),
    additionalGids: z.array(number).optional(),
  }),
  args: strings.min(1),
  env: strings.default([]),
  cwd: z.string().startsWith('/'),
  capabilities: capabilitySets.optional(),
  rlimits: z.array(z.strictObject({ type: z.string(), hard: number, soft: number })).optional(),
  noNewPrivileges: z.boolean().optional(),
  apparmorProfile: z.string().optional(),
  selinuxLabel: z.string().optional(),
  oomScoreAdj: number.optional(),
});

const mountSchema = z.strictObject({
  destination: z.string().startsWith('/'),
  type: z.string().optional(),
  source: z.string().optional(),
  options: strings.optional(),
});

const device = z.looseObject({
  path: z.string(),
  type: z.string(),
  major: number.optional(),
  minor: number.optional(),
});

const resources = z.looseObject({
  devices: z.array(z.looseObject({ allow: z.boolean() })).optional(),
  memory: z.looseObject({ limit: number.optional() }).optional(),
  cpu: z.looseObject({ quota: number.optional(), period: number.optional() }).optional(),
  pids: z.looseObject({ limit: number }).optional(),
});

const linuxSchema = z
  .strictObject({
    namespaces: z
      .array(z.strictObject({ type: z.string(), path: z.string().optional() }))
      .default([]),
    uidMappings: idMapSchema.optional(),
    gidMappings: idMapSchema.optional(),
    resources: resources.optional(),
    devices: z.array(device).optional(),
    cgroupsPath: z.string().optional(),
    seccomp: z.looseObject({ defaultAction: z.string() }).optional(),
    maskedPaths: strings.optional(),
    readonlyPaths: strings.optional(),
    sysctl: z.record(z.string(), z.string()).optional(),
    rootfsPropagation: z.string().optional(),
    mountLabel: z.string().optional(),
  })
  .superRefine((linux, context) => {
    const message = userNamespaceFault(linux);
    if (message !== undefined) context.addIssue({ code: 'custom', message });
  });

export const ociConfigSchema = z.strictObject({
  ociVersion: z.string().default('1.0.2'),
  process: processSchema,
  root: z.strictObject({ path: z.string().default(''), readonly: z.boolean().default(false) }),
  hostname: z.string().optional(),
  mounts: z.array(mountSchema).default([]),
  annotations: z.record(z.string(), z.string()).optional(),
  linux: linuxSchema,
});

export type OciConfig = z.output<typeof ociConfigSchema>;
export type OciMount = z.output<typeof mountSchema>;
