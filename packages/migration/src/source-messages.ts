import { createHash } from 'node:crypto';
import { limits, type SourceMessage } from '@ferry/api';

type Message = NonNullable<SourceMessage['message']>;

/** A segment list and an image, for the message before which says how long they are. */
export function* imageMessages(segments: Buffer, image: Buffer): Generator<Message> {
  for (const value of pieces(segments)) yield { $case: 'segments', value };
  for (const value of pieces(image)) yield { $case: 'image', value };
  const sha256 = createHash('sha256').update(segments).update(image).digest();
  yield { $case: 'imageEnd', value: { sha256 } };
}

/** As few messages as may be: small ones arrive at once when they are one. */
export function together(messages: readonly Message[], bytes: number): readonly Message[] {
  if (bytes > limits.chunkBytes) return messages;
  const value = { messages: messages.map((message) => ({ message })) };
  return [{ $case: 'together', value }];
}

/** Frames, in messages of a bounded size. */
export function* frameMessages(frames: readonly Buffer[]): Generator<Message> {
  let batch: Buffer[] = [];
  let bytes = 0;
  for (const frame of frames) {
    if (bytes + frame.length > limits.chunkBytes) {
      yield { $case: 'frames', value: { frames: batch } };
      [batch, bytes] = [[], 0];
    }
    batch.push(frame);
    bytes += frame.length;
  }
  if (batch.length > 0) yield { $case: 'frames', value: { frames: batch } };
}

function* pieces(bytes: Buffer) {
  for (let at = 0; at < bytes.length; at += limits.chunkBytes) {
    const sizeBytes = at === 0 ? BigInt(bytes.length) : 0n;
    yield { offset: BigInt(at), data: bytes.subarray(at, at + limits.chunkBytes), sizeBytes };
  }
}
