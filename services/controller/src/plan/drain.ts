import type { Node, Problem } from '@ferry/api';
import { byFreeMemory, rankNodes } from './placement.js';

/** All that a drain is planned from. */
export interface DrainSnapshot {
  readonly node: string;
  /** Containers on it that shall move. */
  readonly containers: readonly { readonly name: string; readonly memoryBytes: bigint }[];
  readonly nodes: readonly Node[];
  readonly reserved: ReadonlyMap<string, bigint>;
  /** What stands against a container at a destination; nothing recorded: it was not asked, so it
   *  does not go there. */
  readonly verdicts: ReadonlyMap<string, ReadonlyMap<string, readonly Problem[]>>;
}

export interface PlannedMove {
  readonly container: string;
  /** Undefined: nowhere to go; `reason` and `remedy` say why. */
  readonly to: string | undefined;
  readonly reason: string;
  readonly remedy: string;
}

/** Places the containers one by one, largest first (what is hard to place has the choice), each
 *  where then most memory is free. Pure: the same snapshot gives the same plan. */
export function planDrain(snapshot: DrainSnapshot): PlannedMove[] {
  const { nodes, node, reserved } = snapshot;
  const room = new Map(
    rankNodes(nodes, { memoryBytes: 0n, exclude: [node], reserved }).map((candidate) => [
      candidate.node,
      candidate.freeBytes,
    ]),
  );
  const largestFirst = [...snapshot.containers].sort((a, b) =>
    a.memoryBytes !== b.memoryBytes
      ? Number(b.memoryBytes - a.memoryBytes)
      : a.name < b.name
        ? -1
        : 1,
  );
  return largestFirst.map((container) => {
    const verdicts = snapshot.verdicts.get(container.name) ?? new Map();
    const fits = [...room]
      .map(([name, freeBytes]) => ({ node: name, freeBytes }))
      .filter(({ node: name, freeBytes }) => {
        return freeBytes >= container.memoryBytes && verdicts.get(name)?.length === 0;
      })
      .sort(byFreeMemory);
    const best = fits[0];
    if (best === undefined) return noPlace(container, { room, verdicts });
    room.set(best.node, best.freeBytes - container.memoryBytes);
    return { container: container.name, to: best.node, reason: '', remedy: '' };
  });
}

function noPlace(
  container: { readonly name: string; readonly memoryBytes: bigint },
  why: {
    readonly room: ReadonlyMap<string, bigint>;
    readonly verdicts: ReadonlyMap<string, readonly Problem[]>;
  },
): PlannedMove {
  const { room, verdicts } = why;
  const move = { container: container.name, to: undefined };
  if (room.size === 0) {
    const remedy = 'add a node, or "ferry node uncordon" one';
    return { ...move, reason: 'No other node takes containers', remedy };
  }
  const problems: string[] = [];
  let remedy = '';
  for (const [node, freeBytes] of room) {
    const [problem] = verdicts.get(node) ?? [];
    if (problem !== undefined) {
      problems.push(`${node}: ${problem.object ? `${problem.object}: ` : ''}${problem.reason}`);
      remedy ||= problem.remedy;
    } else if (freeBytes < container.memoryBytes) {
      problems.push(`${node}: not enough free memory`);
      remedy ||= 'free memory on another node, or add one';
    } else {
      problems.push(`${node}: its agent did not answer`);
      remedy ||= 'check the agents of the other nodes';
    }
  }
  return { ...move, reason: problems.slice(0, 5).join('; '), remedy };
}
