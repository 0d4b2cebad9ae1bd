import type { DestinationMessage, FrozenReport, LayoutReport, RoundReport } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { ImageReceiver, type ReceivedImage } from './image-receiver.js';

type Message = NonNullable<DestinationMessage['message']>;
type Report =
  | { readonly $case: 'layout'; readonly value: LayoutReport }
  | { readonly $case: 'round'; readonly value: RoundReport }
  | { readonly $case: 'frozen'; readonly value: FrozenReport };

/** What a source answers: a report, and what follows it. */
export interface Answer<R> extends ReceivedImage {
  readonly report: R;
}

/** What a destination asks its source for while it works, one question at a time. */
export class SourceQuestions {
  readonly #send: (message: Message) => void;
  readonly #over: AbortSignal;
  #waiting: { wanted: Report['$case']; resolve: (answer: Answer<unknown>) => void } | undefined;
  #receiving: { report: Report; receiver: ImageReceiver } | undefined;

  /** @param over  fires when no answer will come any more */
  constructor(send: (message: Message) => void, over: AbortSignal) {
    this.#send = send;
    this.#over = over;
  }

  /** Has writes noted. The image is the layout; nothing of it where the source cannot do that. */
  async track(): Promise<Answer<LayoutReport>> {
    return await this.#ask({ $case: 'track', value: {} }, 'layout');
  }

  /** The pages written since the last round. */
  async round(): Promise<Answer<RoundReport>> {
    return await this.#ask({ $case: 'round', value: {} }, 'round');
  }

  /** The pages written since the last round, which a source tells by itself once it stands. */
  async lastRound(): Promise<Answer<RoundReport>> {
    return await this.#await('round');
  }

  /** Has the container slowed down from the next round on. */
  throttle(cpuPercent: number): void {
    this.#send({ $case: 'throttle', value: { cpuPercent } });
  }

  /** Of a frozen source: the image again, with all of its pages, sent before or not. */
  async whole(): Promise<Answer<FrozenReport>> {
    return await this.#ask({ $case: 'whole', value: {} }, 'frozen');
  }

  async #ask<R>(question: Message, wanted: Report['$case']): Promise<Answer<R>> {
    const answer = this.#await<R>(wanted);
    this.#send(question);
    return await answer;
  }

  async #await<R>(wanted: Report['$case']): Promise<Answer<R>> {
    this.#over.throwIfAborted();
    return await new Promise<Answer<R>>((resolve, reject) => {
      const stop = () => reject(this.#over.reason as Error);
      this.#over.addEventListener('abort', stop, { once: true });
      this.#waiting = {
        wanted,
        resolve: (answer) => {
          this.#over.removeEventListener('abort', stop);
          resolve(answer as Answer<R>);
        },
      };
    });
  }

  /** Takes a report; true when it is the answer to a question, so that what follows belongs to it.
   *  @throws FerryError migrate.order */
  take(report: Report): boolean {
    if (this.#waiting?.wanted !== report.$case) {
      if (report.$case === 'frozen') return false;
      throw new FerryError('migrate.order', `The source sent "${report.$case}" unasked`);
    }
    this.#receiving = { report, receiver: new ImageReceiver(sizesOf(report)) };
    return true;
  }

  /** What takes the pieces that come now, when they belong to an answer. */
  get receiver(): ImageReceiver | undefined {
    return this.#receiving?.receiver;
  }

  /** The last piece has come.
   *  @throws FerryError migrate.damaged */
  finish(sha256: Buffer): void {
    const receiving = this.#receiving;
    const waiting = this.#waiting;
    this.#receiving = undefined;
    this.#waiting = undefined;
    if (receiving === undefined) return;
    waiting?.resolve({ report: receiving.report.value, ...receiving.receiver.finish(sha256) });
  }
}

function sizesOf(report: Report): { imageBytes: bigint; segmentsBytes: bigint } {
  switch (report.$case) {
    case 'layout':
      return { imageBytes: report.value.imageBytes, segmentsBytes: 0n };
    case 'round':
      return { imageBytes: 0n, segmentsBytes: report.value.segmentsBytes };
    case 'frozen':
      return report.value;
  }
}
