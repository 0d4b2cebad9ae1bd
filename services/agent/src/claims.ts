import { FerryError } from '@ferry/core';

/** Who works on which container: one piece of work at a time. */
export class Claims {
  readonly #holders = new Map<string, string>();

  /** @returns gives it up
   *  @throws FerryError container.busy */
  claim(container: string, work: string): () => void {
    const holder = this.#holders.get(container);
    if (holder !== undefined) {
      throw new FerryError('container.busy', `Container ${container} is busy with ${holder}`, {
        remedy: 'wait until that is done, or cancel it',
      });
    }
    this.#holders.set(container, work);
    let held = true;
    return () => {
      if (held) this.#holders.delete(container);
      held = false;
    };
  }
}
