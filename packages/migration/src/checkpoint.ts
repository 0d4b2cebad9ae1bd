import type { KeyObject } from 'node:crypto';
import { ContainerDescription } from '@ferry/api';
import { parseTransfer, type Transfer } from '@ferry/container';
import { FerryError } from '@ferry/core';
import { lossesOf, TreeImage, validateTree } from '@ferry/image';
import { decodePageChunk, type PageChunk, PageReader, SegmentTable } from '@ferry/pages';
import { z } from 'zod';
import { CheckpointFileReader, CheckpointFileWriter } from './checkpoint-file.js';
import type { SourceHost } from './describe.js';
import { compilePrograms, loaderProgram, type ProgramStore } from './loader.js';
import type { ProgressReporter } from './progress.js';
import type { RestoreWork } from './restore-work.js';
import type { SourceWork } from './source-work.js';

const manifestSchema = z.object({
  transfer: z.unknown(),
  description: z.unknown(),
  vdsoHash: z.string().regex(/^\d+$/),
  createdAt: z.string(),
});

/** What a checkpoint says of itself. */
export interface CheckpointManifest {
  readonly transfer: Transfer;
  readonly description: ContainerDescription;
  readonly vdsoHash: bigint;
  readonly createdAt: string;
}

const MANIFEST_BYTES_MAX = 8 << 20;
const IMAGE_BYTES_MAX = 256 << 20;
const LOADER_BYTES_MAX = 16 << 20;

export interface WriteOptions {
  readonly source: SourceHost;
  /** Described nothing yet. */
  readonly work: SourceWork;
  readonly container: string;
  readonly path: string;
  /** Public half of the key that will open the file; undefined: not encrypted. */
  readonly sealFor?: Buffer | undefined;
  readonly vdsoHash: bigint;
  readonly createdAt: string;
  readonly progress: ProgressReporter;
  readonly signal: AbortSignal;
}

/** Writes the whole container to a file; returns when it is on disk. The container is frozen then: `work` thaws or
 *  destroys it. When it fails the caller thaws, and removes the file.
 *  @returns what of it is not in the file, for people
 *  @throws FerryError checkpoint.blocked */
export async function writeCheckpoint(
  options: WriteOptions,
): Promise<{ bytes: number; warnings: string[] }> {
  const { work, progress, signal } = options;
  progress.tell('preflight', 'looking at the container', 0.02);
  const { description, transfer } = await work.describe();
  const [blocker] = description.blockers;
  if (blocker !== undefined) {
    throw new FerryError('checkpoint.blocked', `${blocker.object}: ${blocker.reason}`, {
      remedy: blocker.remedy,
    });
  }
  const file = await CheckpointFileWriter.create(options.path, options.sealFor);
  try {
    const manifest = {
      transfer: JSON.parse(transfer),
      description: ContainerDescription.toJSON(description),
      vdsoHash: options.vdsoHash.toString(),
      createdAt: options.createdAt,
    };
    await file.all('manifest', [Buffer.from(JSON.stringify(manifest))]);
    await file.all('loader', [loaderProgram()]);
    progress.tell('rootfs', 'writing the root file system', 0.05);
    await writeLayers(file, options, description.layers);
    signal.throwIfAborted();
    progress.tell('freeze', 'stopping the processes', 0.2);
    const warnings = await writeFrozen(file, options);
    await file.finish();
    return { bytes: file.bytes, warnings };
  } finally {
    await file.close();
  }
}

async function writeLayers(
  file: CheckpointFileWriter,
  { source, signal }: WriteOptions,
  digests: readonly string[],
): Promise<void> {
  for (const digest of digests) {
    await file.record('layerDigest', Buffer.from(digest));
    await file.all('layer', source.host.layers.exportLayer(digest, { signal }));
  }
}

async function writeFrozen(file: CheckpointFileWriter, options: WriteOptions): Promise<string[]> {
  const { source, work, container, progress, signal } = options;
  const { image, segments } = await work.freezeAndCapture({ later: false, stands: () => {} });
  await work.check();
  progress.announced(segments.totalBytes);
  await source.host.flushLog(container, { signal });
  await file.all('upper', source.host.exportUpper(container, { signal }));
  await file.all('log', source.host.exportLog(container, { signal }));
  await file.all('mounts', source.host.exportMounts(container, { signal }));
  await file.all('image', [image]);
  await file.all('segments', [segments.encode()]);
  const { store, rootOffset } = compilePrograms(image);
  const offset = Buffer.alloc(8);
  offset.writeBigUInt64LE(rootOffset);
  await file.all('programs', [offset, store]);
  const reader = new PageReader(segments);
  const moved = progress.stream({ from: 0.25, to: 0.95 });
  for await (const chunk of reader.chunks(signal)) {
    await file.record('pages', chunk.message());
    chunk.release();
    moved(reader.counters);
  }
  return lossesOf(TreeImage.decode(image));
}

export interface RestoreOptions {
  /** Opens the file, where it is encrypted. */
  readonly key?: KeyObject | undefined;
  readonly work: RestoreWork;
  readonly source: Pick<SourceHost, 'host'>;
  readonly name: string | undefined;
  readonly epoch: number;
  readonly vdsoHash: bigint;
  /** @throws when the container cannot run here */
  readonly check: (manifest: CheckpointManifest) => Promise<void>;
  readonly progress: ProgressReporter;
  readonly signal: AbortSignal;
}

/** Starts the container of a checkpoint. When it fails the caller removes what `work` made.
 *  @throws FerryError checkpoint.*, restore.* */
export async function restoreCheckpoint(path: string, options: RestoreOptions): Promise<void> {
  const { work, progress, signal } = options;
  const file = await CheckpointFileReader.open(path, options.key);
  try {
    const manifest = await readManifest(file);
    checkVdso(manifest, options.vdsoHash);
    progress.tell('preflight', 'looking whether it can run here', 0.02);
    await options.check(manifest);
    const program = await file.whole('loader', LOADER_BYTES_MAX);
    progress.tell('rootfs', 'unpacking the root file system', 0.05);
    await readLayers(file, options);
    signal.throwIfAborted();
    await work.reserve(manifest.transfer, options.name);
    await work.importUpper(file.records('upper'), { signal });
    await work.importLog(file.records('log'));
    progress.tell('prepare', 'making the container', 0.2);
    await work.startLoader({ signal, program });
    await work.importMounts(file.records('mounts'), { signal });
    validateTree(TreeImage.decode(await file.whole('image', IMAGE_BYTES_MAX)));
    const segments = SegmentTable.decode(await file.whole('segments', IMAGE_BYTES_MAX));
    progress.announced(segments.totalBytes);
    await work.layOut(await readPrograms(file), { signal });
    const moved = progress.stream({ from: 0.3, to: 0.9 });
    await work.write(segments, chunksOf(file), {
      signal,
      written: (_bytes, counters) => moved(counters),
    });
    await work.finish({ signal });
    await file.finish();
    signal.throwIfAborted();
    progress.tell('resume', 'letting it run', 0.95);
    await work.connect();
    await work.go();
    await work.complete({ epoch: options.epoch });
  } finally {
    await file.close();
  }
}

/** What a checkpoint file says of itself, and no more than that is read. */
export async function readCheckpointManifest(
  path: string,
  key?: KeyObject,
): Promise<CheckpointManifest> {
  const file = await CheckpointFileReader.open(path, key);
  try {
    return await readManifest(file);
  } finally {
    await file.close();
  }
}

async function readManifest(file: CheckpointFileReader): Promise<CheckpointManifest> {
  const bytes = await file.whole('manifest', MANIFEST_BYTES_MAX);
  try {
    const manifest = manifestSchema.parse(JSON.parse(bytes.toString('utf8')));
    return {
      transfer: parseTransfer(manifest.transfer),
      description: ContainerDescription.fromJSON(manifest.description),
      vdsoHash: BigInt(manifest.vdsoHash),
      createdAt: manifest.createdAt,
    };
  } catch (cause) {
    throw new FerryError('checkpoint.damaged', "The checkpoint's manifest is not valid", { cause });
  }
}

function checkVdso(manifest: CheckpointManifest, vdsoHash: bigint): void {
  if (manifest.vdsoHash === vdsoHash) return;
  const { kernelRelease } = manifest.description.host ?? { kernelRelease: 'another kernel' };
  throw new FerryError(
    'checkpoint.vdso',
    `The checkpoint was made on ${kernelRelease}, whose vDSO is not that of the kernel here`,
    { remedy: 'restore it on a host with the same kernel build' },
  );
}

async function readLayers(file: CheckpointFileReader, options: RestoreOptions): Promise<void> {
  const { layers } = options.source.host;
  while ((await file.peek()) === 'layerDigest') {
    const [digest] = await collect(file.records('layerDigest'));
    if (digest === undefined) return;
    const name = digest.toString('latin1');
    if (layers.has(name)) await collect(file.records('layer'), { drop: true });
    else await layers.importLayer(name, file.records('layer'), { signal: options.signal });
  }
}

async function collect(
  records: AsyncIterable<Buffer>,
  options: { drop: boolean } = { drop: false },
): Promise<Buffer[]> {
  const kept: Buffer[] = [];
  for await (const data of records) if (!options.drop) kept.push(data);
  return kept;
}

async function readPrograms(file: CheckpointFileReader): Promise<ProgramStore> {
  const bytes = await file.whole('programs', IMAGE_BYTES_MAX);
  if (bytes.length < 8) {
    throw new FerryError('checkpoint.damaged', 'The checkpoint has no programs');
  }
  return { rootOffset: bytes.readBigUInt64LE(), store: bytes.subarray(8) };
}

async function* chunksOf(file: CheckpointFileReader): AsyncGenerator<PageChunk> {
  for await (const message of file.records('pages')) yield decodePageChunk(message);
}
