import { type AgentOptions, connect, MigrationSourceService, type ServiceClient } from '@ferry/api';
import { freeBuffer } from '@ferry/linux';
import { decodePageChunk, type OutgoingChunk, type PageChunk } from '@ferry/pages';

/** The page stream's messages pass as they are in memory: a chunk is framed in the buffer it was compressed into, and
 *  read as a view of the message. The bytes are those of the generated codec (test of @ferry/pages). */

/** The buffers that gRPC made of chunks, which it drops when they are sent. */
const copies = new WeakMap<OutgoingChunk, Buffer>();

/** The message of a chunk; gRPC's copy of it (`serializeMessage` of its server) is kept in sight. */
function watchedMessage(chunk: OutgoingChunk): Buffer {
  const message = chunk.message();
  message.copy = (target, ...range) => {
    if (Buffer.isBuffer(target)) copies.set(chunk, target);
    return Buffer.prototype.copy.call(message, target, ...range);
  };
  return message;
}

/** To be called when a chunk is on its way: its copy goes at once, not when V8 comes to collect it. */
export function chunkSent(chunk: OutgoingChunk): void {
  const copy = copies.get(chunk);
  if (copy !== undefined) freeBuffer(copy);
}

/** A chunk's buffer is free again once gRPC has copied the message, which it does before it returns to the event loop. */
function serializeChunk(chunk: OutgoingChunk): Buffer {
  setImmediate(() => chunk.release());
  return watchedMessage(chunk);
}

function readChunk(bytes: Buffer): PageChunk {
  return { ...decodePageChunk(bytes), release: () => freeBuffer(bytes) };
}

/** For the server of MigrationSource. */
export const sourceServiceDefinition = {
  ...MigrationSourceService,
  pullPages: {
    ...MigrationSourceService.pullPages,
    responseSerialize: serializeChunk,
  },
  fetchPages: {
    ...MigrationSourceService.fetchPages,
    responseSerialize: serializeChunk,
  },
} as const;

const clientDefinition = {
  ...MigrationSourceService,
  pullPages: {
    ...MigrationSourceService.pullPages,
    responseDeserialize: readChunk,
  },
  fetchPages: {
    ...MigrationSourceService.fetchPages,
    responseDeserialize: readChunk,
  },
} as const;

export type PageClient = ServiceClient<typeof clientDefinition>;

/** A channel of its own for bulk data. */
export function connectPages(address: string, options: AgentOptions): PageClient {
  const expected = { role: 'agent', name: options.node } as const;
  return connect(clientDefinition, address, { ...options, kind: 'data', expected });
}
