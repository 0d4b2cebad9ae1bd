/** Does something the first time, and then has it that it was done, or why not: for what cannot be asked for again. */
export function onlyOnce(action: () => void): () => void {
  let outcome: { readonly error?: unknown } | undefined;
  return () => {
    if (outcome === undefined) {
      try {
        action();
        outcome = {};
      } catch (error) {
        outcome = { error };
      }
    }
    if ('error' in outcome) throw outcome.error;
  };
}
