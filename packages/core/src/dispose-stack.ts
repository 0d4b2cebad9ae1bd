/** What `DisposableStack` of newer runtimes does: releases what was acquired, last first, whatever fails. */
export class DisposeStack implements Disposable {
  #actions: (() => void)[] = [];

  /** Keeps `resource` until this stack is disposed. */
  use<T extends Disposable>(resource: T): T {
    this.#actions.push(() => resource[Symbol.dispose]());
    return resource;
  }

  /** Runs `action` when this stack is disposed. */
  defer(action: () => void): void {
    this.#actions.push(action);
  }

  /** Gives up ownership: the caller releases what was kept. */
  move(): DisposeStack {
    const moved = new DisposeStack();
    moved.#actions = this.#actions;
    this.#actions = [];
    return moved;
  }

  /** Runs every action; the first error is thrown after all have run, later ones attached as its `cause`s. */
  [Symbol.dispose](): void {
    const errors: unknown[] = [];
    for (let action = this.#actions.pop(); action !== undefined; action = this.#actions.pop()) {
      try {
        action();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new AggregateError(errors, 'Several releases failed');
  }
}

// Node 20 lacks the well-known symbols that `using` compiles to.
(Symbol as { dispose?: symbol }).dispose ??= Symbol.for('Symbol.dispose');
(Symbol as { asyncDispose?: symbol }).asyncDispose ??= Symbol.for('Symbol.asyncDispose');
