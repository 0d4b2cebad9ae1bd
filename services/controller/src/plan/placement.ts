import type { Container, Node, Operation } from '@ferry/api';

/** A node that may take a container, and the memory it then still has to give. */
export interface Candidate {
  readonly node: string;
  readonly freeBytes: bigint;
}

/** Memory that moves under way will take at their destinations: their nodes do not report it yet.
 *  @param operations  active ones */
export function reservedByNode(
  operations: readonly Operation[],
  memoryOf: (container: string) => bigint,
): Map<string, bigint> {
  const reserved = new Map<string, bigint>();
  for (const { kind, node, container } of operations) {
    if (node === '' || !['migrate', 'run', 'restore'].includes(kind)) continue;
    reserved.set(node, (reserved.get(node) ?? 0n) + memoryOf(container));
  }
  return reserved;
}

/** Nodes that may take a container of `memoryBytes`, most free memory first, equal ones by name.
 *  Whether the container's other needs are met there is for preflight to say. */
export function rankNodes(
  nodes: readonly Node[],
  need: {
    readonly memoryBytes: bigint;
    readonly exclude: readonly string[];
    readonly reserved: ReadonlyMap<string, bigint>;
  },
): Candidate[] {
  return nodes
    .filter(({ name, state }) => state === 'ready' && !need.exclude.includes(name))
    .map(({ name, resources }) => ({
      node: name,
      freeBytes: (resources?.memoryFreeBytes ?? 0n) - (need.reserved.get(name) ?? 0n),
    }))
    .filter(({ freeBytes }) => freeBytes >= need.memoryBytes)
    .sort(byFreeMemory);
}

/** For sorting: most free first. */
export function byFreeMemory(a: Candidate, b: Candidate): number {
  if (a.freeBytes !== b.freeBytes) return a.freeBytes > b.freeBytes ? -1 : 1;
  return a.node < b.node ? -1 : 1;
}

/** What a container takes of its destination: what it uses, or what it may use when nothing is
 *  known yet. */
export function memoryNeed(container: Pick<Container, 'memoryBytes' | 'spec'>): bigint {
  return container.memoryBytes > 0n
    ? container.memoryBytes
    : (container.spec?.memoryLimitBytes ?? 0n);
}
