import { goFirst } from '@ferry/linux';

/** From this round on nothing is optimized anew (`holdOptimizer`): the first, which is the longest, has run everything often
 *  that rounds run, and what is begun later would go on in the freeze. */
export const STEADY_FROM_ROUND = 2;

/** Has this process go before others while a container stands: on a busy host each of the agent's hand-overs from one
 *  thread to the next would wait for its turn otherwise. */
export class Hurry {
  #held: Disposable | undefined;

  while(isNeeded: boolean): void {
    if (isNeeded) {
      this.#held ??= goFirst();
      return;
    }
    this.#held?.[Symbol.dispose]();
    this.#held = undefined;
  }
}
