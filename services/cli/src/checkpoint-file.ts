import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClusterClient, UploadCheckpointMessage } from '@ferry/api';
import { errorText, FerryError } from '@ferry/core';
import { isSealed, SealedReader } from '@ferry/migration';
import { keyFileOf, readKeyFile } from './key-file.js';

const chunkBytes = 1024 * 1024;
const tries = 5;

/** Fetches a checkpoint into `file`, checks it, and only then removes it from its node. A broken
 *  transfer goes on where it was; whatever fails, no half file has the name `file`.
 *  @throws FerryError checkpoint.transfer */
export async function download(
  client: ClusterClient,
  checkpoint: { operation: string; file: string; sizeBytes: bigint; sha256: string },
): Promise<void> {
  const { operation, file } = checkpoint;
  const part = `${file}.part`;
  const out = await open(part, 'w', 0o600);
  try {
    const sha256 = await fetchAll(client, checkpoint, out);
    if (sha256 !== checkpoint.sha256) {
      throw new FerryError('checkpoint.damaged', 'What arrived is not what the node wrote');
    }
    await out.sync();
    await out.close();
    await rename(part, file);
  } catch (error) {
    await out.close().catch(() => {});
    await rm(part, { force: true });
    throw new FerryError('checkpoint.transfer', `The checkpoint did not arrive in ${file}`, {
      cause: error,
      remedy: `it is kept on its node: ferry checkpoint --fetch ${operation} --out ${file}`,
    });
  }
  await client.deleteCheckpoint({ operation }).catch((error: unknown) => {
    process.stderr.write(`ferry: the node still holds its copy: ${errorText(error)}\n`);
  });
}

/** @returns the SHA-256 of what was written, hex */
async function fetchAll(
  client: ClusterClient,
  checkpoint: { operation: string; sizeBytes: bigint },
  out: FileHandle,
): Promise<string> {
  const { operation } = checkpoint;
  const size = Number(checkpoint.sizeBytes);
  const hash = createHash('sha256');
  let at = 0;
  for (let attempt = 1; ; attempt += 1) {
    try {
      for await (const chunk of client.downloadCheckpoint({ operation, offset: BigInt(at) })) {
        if (chunk.offset !== BigInt(at) || at + chunk.data.length > size) {
          throw new FerryError('checkpoint.damaged', `Unexpected piece at ${chunk.offset}`);
        }
        await out.write(chunk.data, 0, chunk.data.length, at);
        hash.update(chunk.data);
        at += chunk.data.length;
      }
      if (at === size) return hash.digest('hex');
      throw new FerryError('rpc.unavailable', `The transfer ended at ${at} of ${size} bytes`);
    } catch (error) {
      const broken = (error as { code?: unknown }).code === 'rpc.unavailable';
      if (!broken || attempt === tries) throw error;
      await sleep(500 * attempt);
    }
  }
}

/** Sends a checkpoint file to a node. @returns the id to restore it by */
export async function upload(
  client: ClusterClient,
  target: { readonly file: string; readonly node: string; readonly key: string | undefined },
): Promise<{ checkpointId: string; sizeBytes: bigint }> {
  const input = await open(target.file, 'r');
  try {
    const source = await contentOf(input, target.key);
    const hash = createHash('sha256');
    const stored = await client.uploadCheckpoint(
      pieces(source, target.node, (data) => hash.update(data)),
    );
    if (stored.sha256 !== hash.digest('hex')) {
      throw new FerryError(
        'checkpoint.damaged',
        `What ${target.node} received is not ${target.file}`,
        {
          remedy: 'try again',
        },
      );
    }
    return stored;
  } finally {
    await input.close();
  }
}

async function* pieces(
  source: AsyncIterable<Buffer>,
  node: string,
  seen: (data: Buffer) => unknown,
): AsyncGenerator<UploadCheckpointMessage, void, undefined> {
  yield { message: { $case: 'node', value: node } };
  let offset = 0n;
  for await (const data of source) {
    seen(data);
    yield { message: { $case: 'chunk', value: { offset, data, sizeBytes: 0n } } };
    offset += BigInt(data.length);
  }
}

/** What a file holds, in pieces; decrypted here, for the key goes to no node.
 *  @param key  path of the key file
 *  @throws FerryError key.*, checkpoint.damaged */
async function contentOf(
  input: FileHandle,
  key: string | undefined,
): Promise<AsyncIterable<Buffer>> {
  const start = Buffer.alloc(16);
  await input.read(start, 0, start.length, 0);
  if (!isSealed(start)) return plainPieces(input);
  const path = keyFileOf(key);
  const reader = await SealedReader.open(input, existsSync(path) ? readKeyFile(path) : undefined);
  return {
    async *[Symbol.asyncIterator]() {
      for (let data = await reader.next(); data !== undefined; data = await reader.next()) {
        if (data.length > 0) yield data;
      }
    },
  };
}

async function* plainPieces(input: FileHandle): AsyncGenerator<Buffer, void, undefined> {
  for (let offset = 0; ; ) {
    // Each piece has its own memory: the transport still holds the ones before.
    const buffer = Buffer.allocUnsafeSlow(chunkBytes);
    const { bytesRead } = await input.read(buffer, 0, chunkBytes, offset);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
    offset += bytesRead;
  }
}
