import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import { call } from '@ferry/linux';
import { z } from 'zod';
import { ByteReader } from './archive/byte-reader.js';
import { packTree } from './archive/pack.js';
import { openFolder } from './archive/raw-fs.js';
import { type Unpacked, unpackTree } from './archive/unpack.js';

/** Read-only layers of root file systems, each named by the sha256 of its archive.
 *
 *      layers/HEX/tree        the files; a lower layer of overlay mounts
 *      layers/HEX/layer.json  {sizeBytes}
 *      layers/.new-RANDOM     an ingest: invisible until it is whole and verified, then renamed */

const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'a layer digest, sha256:HEX');
const INGEST_PREFIX = '.new-';

export interface LayerInfo {
  readonly digest: string;
  /** About what it takes on disk and on the wire. */
  readonly sizeBytes: number;
}

interface Options {
  readonly signal?: AbortSignal | undefined;
}

export class LayerStore {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Opens the store, and removes what interrupted ingests left. */
  static async open(folder: string): Promise<LayerStore> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const name of await readdir(folder)) {
      if (name.startsWith(INGEST_PREFIX))
        await rm(join(folder, name), { recursive: true, force: true });
    }
    return new LayerStore(folder);
  }

  has(digest: string): boolean {
    return existsSync(this.#path(digest));
  }

  /** The folder with the layer's files. Nothing may be changed in it.
   *  @throws FerryError container.layer when there is none */
  treePath(digest: string): string {
    if (!this.has(digest)) {
      throw new FerryError('container.layer', `Layer ${digest} is not on this host`, {
        remedy: 'fetch it from a host that has it (importLayer)',
      });
    }
    return join(this.#path(digest), 'tree');
  }

  async list(): Promise<LayerInfo[]> {
    const names = (await readdir(this.#folder)).filter((name) => /^[0-9a-f]{64}$/.test(name));
    return await Promise.all(names.map((name) => this.#info(`sha256:${name}`)));
  }

  /** The layer's archive, for another host. */
  async *exportLayer(
    digest: string,
    options: Options = {},
  ): AsyncGenerator<Buffer, void, undefined> {
    yield* packTree(this.treePath(digest), options);
  }

  /** Takes a layer from another host. It appears in the store only when all of it has come and its
   *  hash is `digest`.
   *  @throws FerryError container.archive, container.layer; nothing is left then */
  async importLayer(
    digest: string,
    chunks: AsyncIterable<Buffer>,
    options: Options = {},
  ): Promise<void> {
    const target = this.#path(digest);
    if (existsSync(target)) return;
    await this.#ingest(async (tree) => {
      const reader = new ByteReader(chunks);
      try {
        const unpacked = await unpackTree(tree, reader, options);
        if (`sha256:${unpacked.digest}` !== digest) {
          throw new FerryError(
            'container.layer',
            `Layer ${digest} was asked for, what came is sha256:${unpacked.digest}`,
          );
        }
        if (!(await reader.atEnd())) {
          throw new FerryError('container.layer', `Layer ${digest} is followed by something else`);
        }
        return unpacked;
      } finally {
        await reader.close();
      }
    });
  }

  /** Copies an existing root file system into the store.
   *  @returns its digest */
  async addTree(root: string, options: Options = {}): Promise<string> {
    return await this.#ingest((tree) => {
      return unpackTree(tree, new ByteReader(packTree(root, options)), options);
    });
  }

  /** A layer that `fill` makes in an empty folder.
   *  @returns its digest */
  async addBuilt(fill: (tree: string) => Promise<void>, options: Options = {}): Promise<string> {
    return await this.#ingest(async (tree) => {
      await fill(tree);
      return await measure(tree, options);
    });
  }

  /** Removes a layer; the caller knows that no container uses it. */
  async remove(digest: string): Promise<void> {
    // First out of sight, so that a crash in the middle leaves no half layer with a good name.
    const doomed = join(this.#folder, `${INGEST_PREFIX}${randomBytes(8).toString('hex')}`);
    if (!existsSync(this.#path(digest))) return;
    await rename(this.#path(digest), doomed);
    await rm(doomed, { recursive: true, force: true });
  }

  /** Reads a layer again and compares its hash with its name.
   *  @throws FerryError container.layer when a file was changed */
  async verify(digest: string, options: Options = {}): Promise<void> {
    const found = `sha256:${(await measure(this.treePath(digest), options)).digest}`;
    if (found !== digest) {
      throw new FerryError(
        'container.layer',
        `Layer ${digest} was changed on disk, it is ${found} now`,
        {
          remedy: 'remove it from the layer store; it is fetched again when needed',
        },
      );
    }
  }

  async #ingest(fill: (tree: string) => Promise<Unpacked>): Promise<string> {
    const folder = join(this.#folder, `${INGEST_PREFIX}${randomBytes(8).toString('hex')}`);
    const tree = join(folder, 'tree');
    try {
      await mkdir(tree, { recursive: true, mode: 0o755 });
      const { digest, sizeBytes } = await fill(tree);
      if (this.has(`sha256:${digest}`)) {
        await rm(folder, { recursive: true, force: true });
        return `sha256:${digest}`;
      }
      const info = { sizeBytes: Number(sizeBytes) };
      await writeFile(join(folder, 'layer.json'), `${JSON.stringify(info)}\n`);
      using handle = openFolder(folder);
      call('syncfs', handle.number);
      await this.#publish(folder, digest);
      return `sha256:${digest}`;
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** Another ingest of the same layer may have been faster: its result is as good. */
  async #publish(folder: string, hex: string): Promise<void> {
    try {
      await rename(folder, join(this.#folder, hex));
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
      await rm(folder, { recursive: true, force: true });
    }
  }

  async #info(digest: string): Promise<LayerInfo> {
    const text = await readFile(join(this.#path(digest), 'layer.json'), 'utf8');
    const shape = z.object({ sizeBytes: z.number() });
    return { digest, ...shape.parse(JSON.parse(text)) };
  }

  #path(digest: string): string {
    return join(this.#folder, digestSchema.parse(digest).slice('sha256:'.length));
  }
}

/** The hash that a tree's archive has, without keeping the archive. */
async function measure(tree: string, options: Options): Promise<Unpacked> {
  let digest = '';
  let sizeBytes = 0n;
  for await (const chunk of packTree(tree, options)) {
    sizeBytes += BigInt(chunk.length);
    digest = chunk.subarray(-32).toString('hex');
  }
  return { digest, sizeBytes };
}
