import { createHash } from 'node:crypto';
import type { FileChunk } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { SegmentTable } from '@ferry/pages';

/** What a source captured, without page contents. */
export interface ReceivedImage {
  readonly image: Buffer;
  /** What is to be pulled now. */
  readonly segments: SegmentTable;
  /** What may be fetched once the container runs; nothing of it unless that was asked for. */
  readonly later: SegmentTable;
}

const IMAGE_BYTES_MAX = 256n << 20n;
const SEGMENTS_BYTES_MAX = 128n << 20n;

/** Takes the pieces of image and segment list that a source announces, and checks that they are what it sent. */
export class ImageReceiver {
  readonly #segments: Buffer;
  readonly #image: Buffer;
  readonly #laterSegments: number;
  #segmentsDone = 0;
  #imageDone = 0;

  /** @throws FerryError migrate.tooLarge */
  constructor(report: {
    readonly imageBytes: bigint;
    readonly segmentsBytes: bigint;
    readonly laterSegments?: number;
  }) {
    if (report.imageBytes > IMAGE_BYTES_MAX || report.segmentsBytes > SEGMENTS_BYTES_MAX) {
      throw new FerryError(
        'migrate.tooLarge',
        `An image of ${report.imageBytes} bytes with ${report.segmentsBytes} bytes of segments is too large`,
      );
    }
    this.#segments = Buffer.alloc(Number(report.segmentsBytes));
    this.#image = Buffer.alloc(Number(report.imageBytes));
    this.#laterSegments = report.laterSegments ?? 0;
  }

  /** @throws FerryError migrate.damaged */
  takeSegments(piece: FileChunk): void {
    this.#segmentsDone = put(piece, this.#segments, this.#segmentsDone);
  }

  takeImage(piece: FileChunk): void {
    this.#imageDone = put(piece, this.#image, this.#imageDone);
  }

  /** @throws FerryError migrate.damaged, pages.invalid */
  finish(sha256: Buffer): ReceivedImage {
    const got = createHash('sha256').update(this.#segments).update(this.#image).digest();
    const whole =
      this.#segmentsDone === this.#segments.length && this.#imageDone === this.#image.length;
    if (!whole || !got.equals(sha256)) throw damaged();
    const all = SegmentTable.decode(this.#segments);
    const [segments, later] = all.split(all.count - this.#laterSegments);
    return { image: this.#image, segments, later };
  }
}

function put(piece: FileChunk, into: Buffer, done: number): number {
  const fits = piece.data.length <= into.length - done;
  if (Number(piece.offset) !== done || !fits) throw damaged();
  piece.data.copy(into, done);
  return done + piece.data.length;
}

function damaged(): FerryError {
  return new FerryError('migrate.damaged', 'The image of the processes was damaged on its way', {
    remedy: 'try again; if it happens again, check the network and the memory of both hosts',
  });
}
