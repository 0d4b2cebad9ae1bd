import { FerryError } from '@ferry/core';
import { PAGE_SIZE, type ProcessPages } from '@ferry/linux';
import { pageLimits } from './limits.js';
import { OutgoingChunk, packPages, spareSlots } from './outgoing-chunk.js';
import { ADDRESS_END } from './segment-table.js';

/** So many requests are read ahead of whoever takes the answers. */
const AHEAD = 4;

/** Answers requests for memory, each with one chunk, in order; `segment` counts them.
 *  @throws FerryError pages.invalid for a request that no honest peer makes; SysError as readPages */
export async function* answerPages(
  requests: AsyncIterable<ProcessPages>,
): AsyncGenerator<OutgoingChunk, void, undefined> {
  const iterator = requests[Symbol.asyncIterator]();
  const reading: Promise<OutgoingChunk>[] = [];
  let count = 0;
  let next = iterator.next();
  next.catch(() => {});
  try {
    for (;;) {
      const oldest = reading[0];
      const asked = reading.length >= AHEAD ? undefined : next;
      // Whichever comes first: one more request, or the oldest answer.
      const came = await Promise.race([
        ...(asked === undefined ? [] : [asked.then((value) => ({ value }))]),
        ...(oldest === undefined ? [] : [oldest.then((chunk) => ({ chunk }))]),
      ]);
      if ('chunk' in came) {
        void reading.shift();
        yield came.chunk;
        continue;
      }
      if (came.value.done) break;
      reading.push(watched(answer(came.value.value, count++)));
      next = iterator.next();
      next.catch(() => {});
    }
    for (let chunk = reading.shift(); chunk !== undefined; chunk = reading.shift()) {
      yield await chunk;
    }
  } finally {
    for (const end of await Promise.allSettled(reading)) {
      if (end.status === 'fulfilled') end.value.release();
    }
    void iterator.return?.();
  }
}

function watched<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {}); // looked at when its turn comes
  return promise;
}

async function answer(request: ProcessPages, segment: number): Promise<OutgoingChunk> {
  const { address, pages } = request;
  const isPlace = address % PAGE_SIZE === 0 && address < ADDRESS_END;
  if (pages === 0 || pages > pageLimits.chunkPages || !isPlace) {
    throw new FerryError('pages.invalid', `A request for ${pages} pages is not valid`);
  }
  const slot = spareSlots.take();
  try {
    const { head, body } = await packPages(slot, [request], { segment, firstPage: 0, pages });
    return new OutgoingChunk(head, body, () => spareSlots.give(slot));
  } catch (error) {
    spareSlots.give(slot);
    throw error;
  }
}
