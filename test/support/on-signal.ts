import { removeRun } from './run-folder.js';
import { sleep } from './shell.js';
import { traceLines, tracesOf } from './traces.js';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

const guarded = new Set<string>();
let begun = false;

/** From here on a signal removes everything of the run before it ends this process; not any more once the function that
 *  this gives was called. */
export function removeOnSignal(id: string): () => void {
  if (guarded.size === 0) for (const signal of SIGNALS) process.on(signal, interrupted);
  guarded.add(id);
  return () => {
    guarded.delete(id);
    if (guarded.size === 0) for (const signal of SIGNALS) process.off(signal, interrupted);
  };
}

function interrupted(signal: NodeJS.Signals): void {
  if (begun) return;
  begun = true;
  console.error(`\n${signal}: removing everything of this run`);
  void Promise.all([...guarded].map(removeWhole)).then(() => {
    process.exit(signal === 'SIGINT' ? 130 : 143);
  });
}

/** What was being made just then appears a moment later. */
async function removeWhole(id: string): Promise<void> {
  for (let left = 1; left > 0; left = traceLines(tracesOf(id)).length) {
    await removeRun(id).catch((error: unknown) => console.error(String(error)));
    await sleep(300);
  }
}
