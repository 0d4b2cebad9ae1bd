/** Work on a stopped thread that pauses whenever it has set the thread going and must wait for it. */
export type Steps<T> = Generator<undefined, T, undefined>;

/** Carries it to its end. */
export function runAlone<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** Carries all to their ends, each going on while the others' threads run: waiting for a thread costs more than what it
 *  is asked to do. Where some fail the others still finish, so that none is left half done.
 *  @returns their results in order
 *  @throws the first failure */
export function runTogether<T>(all: readonly Steps<T>[]): T[] {
  const results: T[] = [];
  const failures: unknown[] = [];
  let going = all.map((steps, i) => ({ steps, i }));
  while (going.length > 0) {
    going = going.filter(({ steps, i }) => {
      try {
        const { done, value } = steps.next();
        if (done === true) results[i] = value;
        return done !== true;
      } catch (error) {
        failures.push(error);
        return false;
      }
    });
  }
  if (failures.length > 0) throw failures[0];
  return results;
}
