import type {
  AgentWord,
  ControllerAction,
  ControllerPhase,
} from '../../packages/migration/src/controller-machine.js';
import type {
  DestinationAction,
  DestinationPhase,
  DestinationState,
} from '../../packages/migration/src/destination-machine.js';
import type { Decision } from '../../packages/migration/src/journal.js';
import type { SourceAction, SourcePhase } from '../../packages/migration/src/source-machine.js';

/** A whole cluster with one migration, small enough to be tried in every order: both agents and the controller run the
 *  real machines; disks, network, freezer, tracer and Redis are the few facts of them that the protocol rests on.
 *
 *  Messages may come in any order, twice, late or never, also those of a stream that has broken: more than gRPC does.
 *  Everything is plain JSON, so that a state is its own key. */
export interface World {
  s: SourceHost;
  d: DestinationHost;
  c: Controller;
  /** `S:` to the source, `D:` to the destination. */
  net: string[];
  /** The stream between the agents is whole. */
  link: boolean;
  /** The container runs at its destination before all of its memory is there (post-copy). */
  later: boolean;
  /** What may still go wrong. */
  left: Budget;
}

/** Small steps of an action, between which its agent may die. */
export type SourceStepName =
  | SourceAction
  | 'hold'
  | 'journalCommit'
  | 'journalDestroy'
  | 'journalReclaim';

export interface SourceHost {
  up: boolean;
  m: { phase: SourcePhase; connected: boolean; e: boolean } | null;
  todo: SourceStepName[];
  /** Done, and not yet told to the machine; a failure as `failed ACTION`. */
  told: string | null;
  journal: Decision | null;
  /** stopped: by a tracer, which lets go when its agent dies · held: by the cgroup freezer */
  copy: 'runs' | 'stopped' | 'held' | 'gone';
  epoch: number;
  /** Its stream is one before the destination's, and it has not noticed. */
  replaced: boolean;
  /** The host was started anew. */
  rebooted: boolean;
}

export interface DestinationHost {
  up: boolean;
  m: { phase: DestinationPhase; silent: boolean; unbegun: boolean; e: boolean } | null;
  todo: DestinationAction[];
  told: string | null;
  journal: Decision | null;
  copy: 'none' | 'ready' | 'runs';
  /** Its programs have run for a moment at least. */
  ran: boolean;
  /** Memory of it is at the source alone; its pager, which outlives the agent, waits for that. */
  lacks: boolean;
  /** The agent brings it. */
  fetches: boolean;
  streaming: boolean;
  rebooted: boolean;
}

export interface Redis {
  begun: boolean;
  doubted: boolean;
  sourceWord: 'committed' | 'returned' | null;
  destinationWord: 'resumed' | 'abandoned' | null;
  done: 'succeeded' | 'failed' | null;
}

export interface Controller {
  m: { phase: ControllerPhase; doubted: boolean; destination?: AgentWord } | null;
  todo: ControllerAction[];
  redis: Redis;
  /** As it is on the disk of Redis. */
  saved: Redis;
}

export interface Budget {
  /** kill -9 of an agent or the controller; `killAll`: of the source's agent together with its tracer. */
  crash: number;
  killAll: number;
  /** A host started anew, with its journal or without. */
  host: number;
  /** A message lost (with its stream), or come twice; a stream broken. */
  drop: number;
  dup: number;
  cut: number;
  /** A clock that jumps: any time-out at any time. */
  clock: number;
  cancel: number;
  /** Work that fails: a full disk, a restorer that ends. */
  fail: number;
  /** Redis loses its last second. */
  redis: number;
  /** A call of the controller's that is not answered. */
  call: number;
}

export const noFaults: Budget = {
  ...{ crash: 0, killAll: 0, host: 0, drop: 0, dup: 0, cut: 0 },
  ...{ clock: 0, cancel: 0, fail: 0, redis: 0, call: 0 },
};

export function firstWorld(left: Budget, later: boolean): World {
  const redis: Redis = {
    ...{ begun: false, doubted: false, sourceWord: null, destinationWord: null, done: null },
  };
  return {
    s: {
      ...{ up: true, m: null, todo: [], told: null, journal: null, copy: 'runs', epoch: 0 },
      replaced: false,
      rebooted: false,
    },
    d: {
      ...{ up: true, m: null, todo: [], told: null, journal: null, copy: 'none', ran: false },
      ...{ lacks: false, fetches: false },
      ...{ streaming: false, rebooted: false },
    },
    c: { m: null, todo: [], redis, saved: { ...redis } },
    net: [],
    link: false,
    later,
    left,
  };
}

/** One thing that can happen next. */
export interface Choice {
  readonly name: string;
  /** It is a failure: not needed for a run to end. */
  readonly fault: boolean;
  readonly happen: (world: World) => void;
}

/** Adds a choice that is no failure. */
export type Add = (name: string, happen: Choice['happen']) => void;

/** Why anything failed: which error it is decides nothing. */
export const error = 'x';

/** A world of its own that is the same. */
export function copyOf({ s, d, c, net, link, later, left }: World): World {
  return {
    s: { ...s, m: s.m && { ...s.m }, todo: [...s.todo] },
    d: { ...d, m: d.m && { ...d.m }, todo: [...d.todo] },
    c: {
      m: c.m && { ...c.m },
      todo: [...c.todo],
      redis: { ...c.redis },
      saved: { ...c.saved },
    },
    ...{ net: [...net], link, later, left: { ...left } },
  };
}

/** Messages have no order: two worlds that differ in it alone are one. */
export function keyOf(world: World): string {
  world.net.sort();
  return JSON.stringify(world);
}

/** One that is on its way already is the same message: that it comes twice is a fault of its own. */
export function send(w: World, message: string): void {
  if (!w.net.includes(message)) w.net.push(message);
}

export function destinationState({ phase, silent, unbegun, error: why }: DestinationState) {
  return { phase, silent: silent === true, unbegun: unbegun === true, e: why !== undefined };
}
