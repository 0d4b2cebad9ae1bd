import {
  type AgentClient,
  checkId,
  checkNodeName,
  connectAgent,
  type DeleteCheckpointRequest,
  type DownloadCheckpointRequest,
  type FileChunk,
  limits,
  type StoreCheckpointMessage,
  type UploadCheckpointMessage,
  type UploadCheckpointResponse,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import type { Surroundings } from '../operations/work.js';
import { refused } from './validate.js';

const uploadKeptSeconds = 24 * 3600;

/** ClusterService: files of checkpoints between users and agents. The controller passes them on
 *  piece by piece, as fast as the slower side takes them, and keeps nothing. */
export function checkpointCalls(around: Surroundings) {
  const { operations, nodes, db } = around.stores;

  async function located(operation: string): Promise<{ node: string; checkpointId: string }> {
    const found = await operations.get(checkId(operation, 'Operation id'));
    if (found.result?.$case === 'checkpoint') return found.result.value;
    const message = `Operation ${operation} is not a finished checkpoint (${found.kind}, ${found.state})`;
    throw new FerryError('checkpoint.notFinished', message, {
      remedy: `wait for it with "ferry op watch ${operation}"`,
    });
  }

  async function* download(
    request: DownloadCheckpointRequest,
    { signal }: { signal: AbortSignal },
  ): AsyncIterable<FileChunk> {
    const { node, checkpointId } = await located(request.operation);
    using agent = await dataAgent(around, node);
    const { offset } = request;
    yield* agent.client.fetchCheckpoint({ checkpointId, offset }, { signal });
  }

  async function remove(request: DeleteCheckpointRequest) {
    const { node, checkpointId } = await located(request.operation);
    using agent = await dataAgent(around, node);
    await agent.client.deleteCheckpoint({ checkpointId });
    return {};
  }

  async function upload(
    messages: AsyncIterable<UploadCheckpointMessage>,
    { signal }: { signal: AbortSignal },
  ): Promise<UploadCheckpointResponse> {
    const source = messages[Symbol.asyncIterator]();
    const first = await source.next();
    if (first.done || first.value.message?.$case !== 'node') {
      throw refused('The first message of an upload must name the node', 'send `node` first');
    }
    const node = checkNodeName(first.value.message.value);
    await nodes.getUp(node);
    const checkpointId = `u-${operations.newId()}`;
    using agent = await dataAgent(around, node);
    const stored = await agent.client.storeCheckpoint(pieces(checkpointId, source), { signal });
    const key = db.key('upload', checkpointId);
    await db.redis.set(key, stored.container, 'EX', uploadKeptSeconds);
    return { checkpointId, node, sizeBytes: stored.sizeBytes, sha256: stored.sha256 };
  }

  return { download, remove, upload };
}

async function* pieces(
  checkpointId: string,
  source: AsyncIterator<UploadCheckpointMessage>,
): AsyncGenerator<StoreCheckpointMessage, void, undefined> {
  yield { message: { $case: 'checkpointId', value: checkpointId } };
  for (let next = await source.next(); !next.done; next = await source.next()) {
    const { message } = next.value;
    if (message?.$case !== 'chunk' || message.value.data.length > limits.chunkBytes) {
      throw refused('A message of an upload is not a chunk of at most 1 MiB', 'send only chunks');
    }
    yield { message };
  }
}

/** A data connection of its own to a node's agent. */
async function dataAgent(
  around: Surroundings,
  node: string,
): Promise<Disposable & { client: AgentClient }> {
  const { address } = (await around.stores.nodes.getUp(node)).node;
  const { security } = around.agents;
  const client = connectAgent(address, { kind: 'data', node, security });
  return { client, [Symbol.dispose]: () => client.close() };
}
