import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { FerryError, unreachable } from '@ferry/core';
import { z } from 'zod';
import type { LayerStore } from './layer-store.js';
import { type OciConfig, ociConfigSchema } from './oci-config.js';
import { buildProgramRootfs } from './program-rootfs.js';
import type { CheckedSpec } from './spec.js';

/** What an image gives: the layers of the root file system, and for a bundle its configuration. */
export interface ResolvedImage {
  readonly layers: string[];
  readonly base?: OciConfig;
}

/** Puts an image's files into the layer store.
 *  @throws FerryError container.image */
export async function resolveImage(
  image: CheckedSpec['image'],
  layers: LayerStore,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<ResolvedImage> {
  switch (image.kind) {
    case 'program': {
      const fill = (tree: string) => buildProgramRootfs(tree, image, options);
      return { layers: [await layers.addBuilt(fill, options)] };
    }
    case 'rootfs':
      return { layers: [await layers.addTree(image.path, options)] };
    case 'bundle': {
      const base = await readBundleConfig(image.path);
      const rootfs = resolve(image.path, base.root.path === '' ? 'rootfs' : base.root.path);
      return { layers: [await layers.addTree(rootfs, options)], base };
    }
    default:
      return unreachable(image);
  }
}

/** The config.json of an OCI bundle, as far as it can move to another host.
 *  @throws FerryError container.image for what cannot: hooks, a user namespace of somebody else */
export async function readBundleConfig(bundle: string): Promise<OciConfig> {
  const path = resolve(bundle, 'config.json');
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new FerryError('container.image', `${path} cannot be read`, {
      cause,
      remedy: 'give the folder of an OCI bundle, with config.json and its root file system',
    });
  });
  const parsed = bundleSchema.safeParse(parseJson(text, path));
  if (!parsed.success) throw unusable(path, z.prettifyError(parsed.error));
  const config = parsed.data;
  const mounts = config.mounts.map((mount) => {
    const isBind =
      mount.type === 'bind' || mount.options?.some((o) => o === 'bind' || o === 'rbind');
    if (!isBind || mount.source === undefined) return mount;
    return { ...mount, source: resolve(bundle, mount.source) };
  });
  return { ...config, mounts };
}

/** A terminal belongs to whoever started the container by hand; a container of ours has none. */
const bundleSchema = z.preprocess((value) => {
  const config = z.looseObject({ process: z.looseObject({}).optional() }).safeParse(value);
  if (!config.success || config.data.process === undefined) return value;
  const { terminal: _terminal, consoleSize: _size, ...process } = config.data.process;
  return { ...config.data, process };
}, ociConfigSchema);

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FerryError('container.image', `${path} is not JSON`, { cause });
  }
}

function unusable(path: string, reason: string): FerryError {
  return new FerryError(
    'container.image',
    `${path} describes a container that cannot move: ${reason}`,
    {
      remedy: 'remove that part from the config.json',
    },
  );
}
