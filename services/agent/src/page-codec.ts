import { connect, MigrationSourceService, type ServiceClient } from '@ferry/api';
import { decodePageChunk, type OutgoingChunk, type PageChunk } from '@ferry/pages';

/** The page stream's messages pass as they are in memory: a chunk is framed in the buffer it was compressed into, and
 *  read as a view of the message. The bytes are those of the generated codec (test of @ferry/pages). */

/** For the server of MigrationSource. A chunk's buffer is free again once gRPC has copied the message, which it does
 *  before it returns to the event loop. */
export const sourceServiceDefinition = {
  ...MigrationSourceService,
  pullPages: {
    ...MigrationSourceService.pullPages,
    responseSerialize: (chunk: OutgoingChunk): Buffer => {
      setImmediate(() => chunk.release());
      return chunk.message();
    },
  },
} as const;

const clientDefinition = {
  ...MigrationSourceService,
  pullPages: {
    ...MigrationSourceService.pullPages,
    responseDeserialize: (bytes: Buffer): PageChunk => decodePageChunk(bytes),
  },
} as const;

export type PageClient = ServiceClient<typeof clientDefinition>;

/** A channel of its own for bulk data. */
export function connectPages(address: string): PageClient {
  return connect(clientDefinition, address, { kind: 'data' });
}
