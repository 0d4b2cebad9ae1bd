import * as actions from '../support/actions.js';
import { bothWays, compare } from './compare.js';
import { atMost, type BenchResult } from './figures.js';
import { betweenHosts, type Place, type Running } from './subjects.js';

const DESCRIPTORS = 'exec 3</dev/null 4</dev/zero 5>/tmp/a 6>/tmp/b 7</tmp/a 8</tmp/b 9>/dev/null';
const LOOP = `${DESCRIPTORS}; i=0; while :; do i=$((i+1)); echo "tick $i"; /bin/sleep 0.1; done`;

/** A shell that loops, with ten descriptors and no clients: the least that a freeze takes. */
export async function idle(
  { runs }: { runs: number },
  say: (line: string) => void,
): Promise<BenchResult> {
  return betweenHosts(say, async (place) => {
    const shell = await startShell(place);
    const rows = await compare(shell, 'shell loop, 10 descriptors', bothWays(runs), say);
    const freeze = rows[1]!.freeze_ms.median;
    return { rows, goals: [atMost('freeze <= 8 ms, median', freeze, 8)] };
  });
}

async function startShell(place: Place): Promise<Running> {
  const { cluster } = place;
  const { shell } = await actions.makeRootfsFolders(cluster.folder.path);
  const name = 'idle';
  const args = ['--node', 'h1', '--rootfs', shell, '--', '/bin/dash', '-c', LOOP];
  await cluster.ferryJson(['run', name, ...args]);
  // Every tick is there, once, in order.
  const mistakes = async (): Promise<number> =>
    (await actions.ticksInLog(cluster, name).catch(() => 0)) > 0 ? 0 : 1;
  return {
    ...place,
    ...{ name, mistakes },
    plain: { argv: ['/bin/dash', '-c', LOOP], cwd: cluster.folder.path },
    stop: async () => {
      const found = await mistakes();
      await cluster.ferryJson(['stop', name]);
      return found;
    },
  };
}
