import { FerryError } from '@ferry/core';

interface Holder {
  readonly work: string;
  /** It goes on whatever becomes of the container. */
  mayEnd: boolean;
}

/** Who works on which container: one piece of work at a time. */
export class Claims {
  readonly #holders = new Map<string, Holder>();

  /** @param options.toEnd  the container is to be stopped, which some work does not mind
   *  @returns gives it up
   *  @throws FerryError container.busy */
  claim(container: string, work: string, options: { readonly toEnd?: boolean } = {}): () => void {
    const holder = this.#holders.get(container);
    if (holder?.mayEnd && options.toEnd === true) return () => {};
    if (holder !== undefined) {
      throw new FerryError('container.busy', `Container ${container} is busy with ${holder.work}`, {
        remedy: 'wait until that is done, or cancel it',
      });
    }
    const mine = { work, mayEnd: false };
    this.#holders.set(container, mine);
    return () => {
      if (this.#holders.get(container) === mine) this.#holders.delete(container);
    };
  }

  /** From now on the container may be stopped all the same. */
  mayEnd(container: string): void {
    const holder = this.#holders.get(container);
    if (holder !== undefined) holder.mayEnd = true;
  }
}
