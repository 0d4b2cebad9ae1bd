/** Who holds a turn for longer has lost it: it waits for somebody who does not answer, or has much to send. */
const HOLD_MS_MAX = 1000;

/** A place in the queue. */
export interface Turn {
  /** Waits for it, no longer than `ms`.
   *  @returns whether it has come */
  within(ms: number): Promise<boolean>;
  /** Lets the next one go; repeatable. Also ends the wait for it. */
  end(): void;
}

/** The cutovers into a host, or those out of it, take turns: several at once share its processors, and each of their
 *  containers would stand for as long as all of them take. Nothing that a hand-over promises depends on it, and nobody
 *  waits for ever: a turn is passed on after a second, whatever its holder does.
 *
 *  A migration first waits for its turn at its destination, then for that at its source. Who has the one at a source waits
 *  for no other, so hosts that move containers to each other do not wait in a circle. */
export class CutoverTurns {
  readonly #holdMsMax: number;
  /** The first has the turn. */
  readonly #queue: Place[] = [];

  constructor({ holdMsMax = HOLD_MS_MAX }: { holdMsMax?: number } = {}) {
    this.#holdMsMax = holdMsMax;
  }

  /** Queues up. */
  take(): Turn {
    const place = new Place(this.#holdMsMax, () => this.#leave(place));
    this.#queue.push(place);
    if (this.#queue[0] === place) place.begin();
    return place;
  }

  #leave(place: Place): void {
    const at = this.#queue.indexOf(place);
    if (at < 0) return;
    this.#queue.splice(at, 1);
    if (at === 0) this.#queue[0]?.begin();
  }
}

class Place implements Turn {
  readonly #holdMsMax: number;
  readonly #leave: () => void;
  readonly #begun: Promise<void>;
  #hasBegun = false;
  #begin: () => void = () => {};
  #timer: NodeJS.Timeout | undefined;

  constructor(holdMsMax: number, leave: () => void) {
    this.#holdMsMax = holdMsMax;
    this.#leave = leave;
    this.#begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
  }

  begin(): void {
    this.#hasBegun = true;
    this.#begin();
    this.#timer = setTimeout(this.#leave, this.#holdMsMax).unref();
  }

  async within(ms: number): Promise<boolean> {
    if (this.#hasBegun) return true;
    let timer: NodeJS.Timeout | undefined;
    const passed = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms);
    });
    await Promise.race([this.#begun, passed]);
    clearTimeout(timer);
    return this.#hasBegun;
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#leave();
    this.#hasBegun = true;
    this.#begin();
  }
}
