import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { bidiStream, createServer, startServer, stopServer } from '@ferry/api';
import { OutgoingChunk } from '@ferry/pages';
import { chunkSent, connectPages, sourceServiceDefinition } from '../src/page-codec.js';

const HEADROOM = 64;
const CHUNK_BYTES = 1024 * 1024;
const CHUNKS = 100;

/** A chunk of `data`, as a reader makes it. */
function chunkOf(data: Buffer, segment: number): OutgoingChunk {
  const space = Buffer.concat([Buffer.alloc(HEADROOM), data]);
  const head = { segment, firstPage: 0, pages: 256, encoding: 'raw', hash: 7n } as const;
  return new OutgoingChunk(head, { space, length: data.length }, () => {});
}

describe('agent: the page stream', () => {
  it('arrives whole, though either side frees each buffer as soon as it is done with it', async () => {
    const sent = [randomBytes(CHUNK_BYTES), randomBytes(100), randomBytes(CHUNK_BYTES)];
    let told = 0;
    const pullPages = bidiStream(
      async function* () {
        for (let i = 0; i < CHUNKS; i++) yield chunkOf(sent[i % sent.length]!, i);
      },
      (chunk: OutgoingChunk) => {
        told += 1;
        chunkSent(chunk);
      },
    );
    const server = createServer();
    const { pullPages: definition } = sourceServiceDefinition;
    server.addService({ pullPages: definition } as never, { pullPages } as never);
    const address = `127.0.0.1:${await startServer(server, '127.0.0.1:0')}`;
    const client = connectPages(address, {});
    let count = 0;
    for await (const chunk of client.pullPages([{ migrationId: 'm', creditBytes: 1n, round: 0 }])) {
      assert.equal(chunk.segment, count);
      assert(chunk.data.equals(sent[count % sent.length]!), `chunk ${count}`);
      const { data } = chunk;
      chunk.release?.();
      assert(data.length === 0 || data.length === 100, 'a large buffer is gone');
      count += 1;
    }
    client.close();
    await stopServer(server, 1000);
    assert.deepEqual([count, told], [CHUNKS, CHUNKS]);
  });
});
