import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FerryError } from '@ferry/core';
import { z } from 'zod';
import { addressesSchema, fastOpenKeySchema } from './network.js';
import { ociConfigSchema } from './oci-config.js';
import { processRefSchema, shimSchema } from './shim.js';
import { containerNameSchema, runSpecSchema } from './spec.js';

/** creating: being made, removed when found after a crash · created, running: the container's own
 *  program · incoming: a place kept for a container on its way here · restoring: the restorer is
 *  its first process. */
const phaseSchema = z.enum(['creating', 'created', 'running', 'incoming', 'restoring']);
export type Phase = z.output<typeof phaseSchema>;

const portable = {
  version: z.literal(1),
  name: containerNameSchema,
  /** The same for the whole life of a container, whatever its name and host. */
  id: z.string().regex(/^[0-9a-f]{32}$/),
  /** Who owns it: rises by one with each migration. */
  epoch: z.number().int().nonnegative(),
  createdAt: z.string(),
  spec: runSpecSchema,
  /** Digests of the root file system's read-only layers, lowest first. */
  layers: z
    .array(z.string().regex(/^sha256:[0-9a-f]{64}$/))
    .min(1)
    .max(64),
  /** OCI configuration without this host's paths. */
  config: ociConfigSchema,
  network: addressesSchema,
  /** What its network makes cookies of TCP Fast Open with, once a program has accepted with it. */
  fastOpenKey: fastOpenKeySchema.optional(),
};

/** What a host keeps of a container. */
export const recordSchema = z.strictObject({
  ...portable,
  phase: phaseSchema,
  shim: shimSchema.optional(),
  /** The container's first process, PID of the host. */
  init: processRefSchema.optional(),
  /** What its network namespace took over from this host, by path below /proc/sys. */
  givenSettings: z.record(z.string(), z.string()).optional(),
  /** What the runtime holds of a container's configuration, to be put back after a restore. */
  ownState: z.record(z.string(), z.unknown()).optional(),
});
export type ContainerRecord = z.output<typeof recordSchema>;

/** What another host must know to take a container in. JSON. */
export const transferSchema = z.strictObject({
  ...portable,
  ownState: z.record(z.string(), z.unknown()),
});
export type Transfer = z.output<typeof transferSchema>;

/** Writes a record so that a reader sees the old or the new one, never a part. */
export async function writeRecord(path: string, record: ContainerRecord): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFile(`${path}.new`, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** Undefined when there is none.
 *  @throws FerryError container.record when it cannot be understood */
export async function readRecord(path: string): Promise<ContainerRecord | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new FerryError('container.record', `Record ${path} cannot be understood`, {
      cause,
      remedy: 'it was written by another version of Ferry, or damaged: move the folder away',
    });
  }
}

/** Checks what another host sent.
 *  @throws FerryError container.transfer */
export function parseTransfer(value: unknown): Transfer {
  const result = transferSchema.safeParse(value);
  if (result.success) return result.data;
  throw new FerryError(
    'container.transfer',
    `The description of the container is not valid: ${z.prettifyError(result.error)}`,
  );
}
