import type {
  AgentWord,
  ControllerAction,
  ControllerEvent,
  ControllerPhase,
} from '../../packages/migration/src/controller-machine.js';
import { isControllerEnd } from '../../packages/migration/src/controller-machine.js';
import type {
  DestinationAction,
  DestinationEvent,
  DestinationPhase,
  DestinationState,
} from '../../packages/migration/src/destination-machine.js';
import {
  isCancellable,
  isDestinationEnd,
} from '../../packages/migration/src/destination-machine.js';
import type { Decision } from '../../packages/migration/src/journal.js';
import type { Opening } from '../../packages/migration/src/opening.js';
import {
  isCommitted,
  isHeld,
  isSourceEnd,
  type SourceAction,
  type SourceEvent,
  type SourcePhase,
} from '../../packages/migration/src/source-machine.js';
import type { Protocol } from './protocol.js';

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
type SourceStepName = SourceAction | 'hold' | 'journalCommit' | 'journalDestroy' | 'journalReclaim';

interface SourceHost {
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

interface DestinationHost {
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

interface Redis {
  begun: boolean;
  doubted: boolean;
  sourceWord: 'committed' | 'returned' | null;
  destinationWord: 'resumed' | 'abandoned' | null;
  done: 'succeeded' | 'failed' | null;
}

interface Controller {
  m: { phase: ControllerPhase; doubted: boolean; destination?: AgentWord } | null;
  todo: ControllerAction[];
  redis: Redis;
  /** As it was a second ago. */
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

const error = 'x';

/** What can happen in a world, by a protocol. */
export class Rules {
  readonly #p: Protocol;

  constructor(protocol: Protocol) {
    this.#p = protocol;
  }

  choices(w: World): Choice[] {
    return [...this.#agents(w), ...this.#network(w), ...this.#controller(w), ...this.#faults(w)];
  }

  // ---- the agents -------------------------------------------------------------------------------------------

  #agents(w: World): Choice[] {
    const found: Choice[] = [];
    const add = (name: string, happen: Choice['happen']) => {
      found.push({ name, fault: false, happen });
    };
    const { s, d } = w;
    if (!s.up) add('source starts', (x) => this.#startSource(x));
    else if (s.told !== null) add(`source: ${s.told}`, (x) => this.#toldSource(x));
    else if (s.todo[0] !== undefined) add(`source does ${s.todo[0]}`, (x) => this.#doSource(x));
    if (s.up && s.m?.connected && (!w.link || s.replaced)) {
      add('source sees the stream broken', (x) => this.#source(x, 'lost'));
    }
    if (!d.up) add('destination starts', (x) => this.#startDestination(x));
    else if (d.told !== null) add(`destination: ${d.told}`, (x) => this.#toldDestination(x));
    else if (d.todo[0] !== undefined) {
      add(`destination does ${d.todo[0]}`, (x) => this.#doDestination(x));
    }
    if (d.fetches && d.told === null) this.#memory(w, add);
    if (d.up && d.streaming && !w.link) {
      add('destination sees the stream broken', (x) => {
        x.d.streaming = false;
        this.#destination(x, 'lost');
      });
    }
    if (s.rebooted && d.up && d.told === null && d.m?.phase === 'asking' && !d.m.silent) {
      // It gets answers that are none; after a while that is a doubt.
      add('destination doubts', (x) => this.#destination(x, 'unreachable'));
    }
    this.#words(w, add);
    this.#operatorRemoves(w, found);
    return found;
  }

  /** Streams of their own, opened again and again: all that counts is whether both agents are there. */
  #memory(w: World, add: (name: string, happen: Choice['happen']) => void): void {
    const { s, d } = w;
    const serves = s.up && s.m !== null && isHeld(s.m.phase) && s.copy === 'held';
    if (d.lacks && serves) {
      add('memory arrives', (x) => {
        x.d.lacks = false;
      });
    }
    if (!d.lacks) {
      add('destination has all memory', (x) => {
        [x.d.fetches, x.d.journal, x.d.told] = [false, 'resumed', 'fetchDone'];
      });
    }
  }

  /** By way of the controller's Redis, with the heartbeats. */
  #words(w: World, add: (name: string, happen: Choice['happen']) => void): void {
    const { s, d, c } = w;
    const says = sourceWord(s);
    if (s.up && says !== null && c.redis.sourceWord !== says) {
      add(`source tells the controller ${says}`, (x) => {
        x.c.redis.sourceWord = says;
      });
    }
    const answers = destinationWord(d);
    if (d.up && answers !== null && c.redis.destinationWord !== answers) {
      add(`destination tells the controller ${answers}`, (x) => {
        x.c.redis.destinationWord = answers;
      });
    }
    const { sourceWord: heard, destinationWord: other } = c.redis;
    if (s.up && s.m !== null && isHeld(s.m.phase) && s.told === null && other !== null) {
      add(`source hears ${other} by the controller`, (x) => this.#source(x, other));
    }
    const useful = heard === 'committed' ? d.m?.phase === 'asking' : listens(d);
    if (d.up && d.told === null && heard !== null && useful) {
      const kind = heard === 'committed' ? 'granted' : 'aborted';
      add(`destination hears ${heard} by the controller`, (x) => this.#destination(x, kind));
    }
  }

  #source(w: World, kind: SourceEvent['kind'], during?: string): void {
    const { s } = w;
    if (s.m === null) return;
    const before = { phase: s.m.phase, connected: s.m.connected, ...(s.m.e ? { error } : {}) };
    const { state, actions } = this.#p.sourceStep(before, { kind, error, during } as SourceEvent);
    s.m = { phase: state.phase, connected: state.connected, e: state.error !== undefined };
    if (kind === 'lost') s.replaced = false;
    s.todo.push(...actions.flatMap(smallSteps));
  }

  #toldSource(w: World): void {
    const [kind, during] = (w.s.told ?? '').split(' ');
    w.s.told = null;
    this.#source(w, kind as SourceEvent['kind'], during);
  }

  #doSource(w: World): void {
    const { s } = w;
    const action = s.todo.shift();
    const say = (message: string) => {
      // What is sent into a stream that has broken is lost, noticed or not.
      if (s.m?.connected && w.link && !s.replaced) send(w, `D:${message}`);
    };
    switch (action) {
      case 'describe':
        say('described');
        s.told = 'describeDone';
        return;
      case 'freeze':
        if (s.copy === 'runs') s.copy = 'stopped';
        say('image');
        s.told = 'freezeDone';
        return;
      case 'hold':
        if (s.copy === 'stopped') s.copy = 'held';
        return;
      case 'journalCommit':
        s.journal = 'committed';
        s.told = 'commitDone';
        return;
      case 'grant':
        say('grant');
        return;
      case 'recordReturn':
        s.journal = 'returned';
        s.told = 'returnDone';
        return;
      case 'destroy':
        s.copy = 'gone';
        return;
      case 'journalDestroy':
        s.journal = 'destroyed';
        s.told = 'destroyDone';
        return;
      case 'thaw':
        if (s.copy !== 'gone') s.copy = 'runs';
        if (s.journal === 'returned') s.epoch = 2;
        return;
      case 'journalReclaim':
        s.journal = s.journal === 'returned' ? 'reclaimed' : (s.journal ?? 'aborted');
        s.told = 'thawDone';
        return;
      case 'tellDone':
        say('done');
        return;
      case 'tellAbort':
        say('abort');
        return;
      // Rounds of memory decide nothing; COMMIT comes in smaller steps.
      case 'track':
      case 'round':
      case 'throttle':
      case 'whole':
      case 'commit':
      case undefined:
    }
  }

  /** Settles what its journal tells, before it takes calls. */
  #startSource(w: World): void {
    const { s } = w;
    s.up = true;
    if (s.journal === 'committed' || s.journal === 'returned') {
      if (s.journal === 'committed' && s.copy !== 'gone') s.copy = 'held';
      const { state, actions } = this.#p.sourceRestart(s.journal);
      s.m = { phase: state.phase, connected: false, e: state.error !== undefined };
      s.todo = actions.flatMap(smallSteps);
    } else if (s.copy !== 'gone') s.copy = 'runs';
  }

  #destination(w: World, kind: DestinationEvent['kind'], during?: string): void {
    const { d } = w;
    if (d.m === null) return;
    const { phase, silent, unbegun } = d.m;
    const before = { phase, silent, unbegun, ...(d.m.e ? { error } : {}) };
    const event = { kind, error, during, later: w.later } as DestinationEvent;
    const { state, actions } = this.#p.destinationStep(before, event);
    d.m = destinationState(state);
    this.#beginDestination(w, actions);
    // It closes the stream; what it has sent arrives all the same.
    if (isDestinationEnd(state.phase)) [d.streaming, w.link] = [false, false];
  }

  #beginDestination(w: World, actions: readonly DestinationAction[]): void {
    for (const action of actions) {
      if (action === 'tellAbort') this.#tell(w, 'abort');
      else if (action === 'reopen') this.#open(w, true);
      else if (w.d.todo.at(-1) !== action) w.d.todo.push(action);
    }
  }

  #tell(w: World, message: string): void {
    if (w.d.streaming) send(w, `S:${message}`);
  }

  #open(w: World, again: boolean): void {
    if (w.d.streaming) return;
    w.d.streaming = true;
    w.link = true;
    // What the source still holds is the stream before this one.
    w.s.replaced = w.s.m?.connected === true;
    send(w, again ? `S:again${w.d.m?.phase === 'asking' ? '?' : ''}` : 'S:open');
  }

  #toldDestination(w: World): void {
    const [kind, during] = (w.d.told ?? '').split(' ');
    w.d.told = null;
    this.#destination(w, kind as DestinationEvent['kind'], during);
  }

  #doDestination(w: World): void {
    const { d } = w;
    const action = d.todo.shift();
    switch (action) {
      case 'record':
        d.journal = 'receiving';
        return;
      case 'prepare':
        d.told = 'prepareDone';
        return;
      case 'copy':
        d.told = 'copyDone';
        return;
      case 'askFreeze':
        this.#tell(w, 'freeze');
        return;
      case 'restore':
        d.copy = 'ready';
        d.told = 'restoreDone';
        return;
      case 'tellReady':
        this.#tell(w, 'ready');
        return;
      case 'recordGrant':
        d.journal = w.later ? 'fetching' : 'granted';
        d.told = 'grantRecorded';
        return;
      case 'resume':
        if (d.copy === 'ready') [d.copy, d.ran, d.lacks] = ['runs', true, w.later];
        d.told = d.copy === 'runs' ? 'resumeDone' : 'failed resume';
        return;
      case 'tellRunning':
        this.#tell(w, 'running');
        return;
      case 'fetch':
        d.fetches = true;
        return;
      case 'tellResumed':
        this.#tell(w, 'resumed');
        return;
      case 'complete':
        if (d.journal !== 'fetching') d.journal = 'resumed';
        return;
      case 'clean':
        d.copy = 'none';
        d.told = 'cleanDone';
        return;
      case 'tellAbandoned':
        this.#tell(w, 'abandoned');
        return;
      case 'recordEnd':
        if (d.journal === null) return;
        d.journal = d.m?.phase === 'succeeded' ? 'succeeded' : 'abandoned';
        return;
      // Done at once, where they come up.
      case 'reopen':
      case 'tellAbort':
      case undefined:
    }
  }

  #startDestination(w: World): void {
    const { d } = w;
    d.up = true;
    const { journal } = d;
    const begun = journal === 'receiving' || journal === 'granted';
    if (!begun && journal !== 'fetching' && journal !== 'resumed') return;
    const runs = journal === 'fetching' ? 'fetching' : 'ran';
    // What has run and ended is told apart from what never ran.
    const found = d.copy === 'runs' ? runs : d.rebooted ? 'lost' : d.ran ? 'ran' : 'none';
    const { state, actions } = this.#p.destinationRestart(journal, found);
    d.m = destinationState(state);
    this.#beginDestination(w, actions);
  }

  // ---- messages ---------------------------------------------------------------------------------------------

  #network(w: World): Choice[] {
    const found: Choice[] = [];
    for (const message of new Set(w.net)) {
      const toSource = message.startsWith('S:');
      if (toSource ? !w.s.up || w.s.told !== null : !w.d.up || w.d.told !== null) continue;
      found.push({
        name: `${toSource ? 'source' : 'destination'} gets ${message.slice(2)}`,
        fault: false,
        happen: (x) => {
          x.net.splice(x.net.indexOf(message), 1);
          if (toSource) this.#sourceGets(x, message.slice(2));
          else this.#destinationGets(x, message.slice(2));
        },
      });
    }
    return found;
  }

  #sourceGets(w: World, message: string): void {
    if (message.endsWith(DEAD)) this.#openedByDead(w, message.slice(0, -DEAD.length));
    else if (message === 'open' || message.startsWith('again')) this.#opened(w, message);
    else if (message === 'freeze') this.#source(w, 'freezeAsked');
    else if (message === 'ready') this.#source(w, 'ready');
    else if (message === 'running') this.#source(w, 'running');
    else if (message === 'resumed') this.#source(w, 'resumed');
    else if (message === 'abort') this.#source(w, 'abortAsked');
    else if (message === 'abandoned') this.#source(w, 'abandoned');
  }

  #opened(w: World, message: string): Opening {
    const { s } = w;
    const answer = this.#p.opening({
      ...{ session: s.m?.phase, decision: s.journal ?? undefined, again: message !== 'open' },
      rebooted: message === 'again?' && s.rebooted,
    });
    if (answer === 'begin') {
      // It is described first: a container that is not here, or not at that epoch, is refused.
      if (s.copy !== 'runs' || s.epoch !== 0) {
        send(w, 'D:refused');
        return answer;
      }
      const { state, actions } = this.#p.sourceStart;
      s.m = { phase: state.phase, connected: true, e: false };
      s.todo.push(...actions.flatMap(smallSteps));
    } else if (answer === 'join') {
      if (s.m?.connected) this.#source(w, 'lost');
      this.#source(w, 'reopened');
    } else {
      if (answer === 'beganBefore') this.#source(w, 'cancel');
      send(w, answer === 'beganBefore' || answer === 'rebooted' ? 'D:refused' : 'D:unknown');
    }
    return answer;
  }

  /** Whoever opened the stream has ended: it is answered, but nobody hears, and then it breaks. */
  #openedByDead(w: World, message: string): void {
    const [net, link] = [[...w.net], w.link];
    const answer = this.#opened(w, message);
    w.net = net;
    // The stream that it takes the place of ends.
    w.link = answer === 'join' ? false : link;
    if ((answer === 'begin' || answer === 'join') && w.s.m?.connected) this.#source(w, 'lost');
  }

  #destinationGets(w: World, message: string): void {
    const { d } = w;
    if (d.m === null) return;
    if (message === 'refused' || message === 'unknown') {
      d.streaming = false;
      const early = isCancellable(d.m.phase);
      this.#destination(w, message === 'unknown' || early ? 'aborted' : 'lost');
      return;
    }
    if (d.m.silent) this.#destination(w, 'reopened');
    const kinds: Record<string, DestinationEvent['kind']> = {
      ...{ described: 'described', image: 'imageReceived', grant: 'granted' },
      ...{ done: 'done', abort: 'aborted' },
    };
    const kind = kinds[message];
    if (kind !== undefined) this.#destination(w, kind);
  }

  // ---- the controller ---------------------------------------------------------------------------------------

  #controller(w: World): Choice[] {
    const { c } = w;
    if (c.redis.done !== null) return [];
    const step = (name: string, happen: Choice['happen']): Choice => ({
      ...{ name: `controller ${name}`, fault: false, happen },
    });
    if (c.m === null) return [step('begins', (x) => this.#startController(x))];
    if (c.m.phase === 'inDoubt') {
      return [
        step('looks again', (x) => {
          x.c.m = null;
          x.c.redis.doubted = true;
        }),
        ...this.#operator(w),
      ];
    }
    const action = c.todo[0];
    if (action === undefined) return this.#watch(w, step);
    // It waits for what the agent is about to do.
    if (action === 'callOff' && w.s.up && (w.s.told !== null || undecided(w.s))) return [];
    return [step(`does ${action}`, (x) => this.#doController(x))];
  }

  #startController(w: World): void {
    const { c } = w;
    const { begun, doubted } = c.redis;
    const { state, actions } = this.#p.controllerStart({ begun, doubted });
    c.m = { phase: state.phase, doubted: state.doubted };
    c.todo = [...actions];
    c.redis.begun = true;
  }

  #event(w: World, event: ControllerEvent): void {
    const { c } = w;
    if (c.m === null) return;
    const { state, actions } = this.#p.controllerStep(c.m, event);
    const { phase, doubted, destination } = state;
    c.m = { phase, doubted, ...(destination === undefined ? {} : { destination }) };
    c.todo.push(...actions);
    if (!isControllerEnd(phase) || phase === 'inDoubt') return;
    c.redis.done = phase === 'succeeded' ? 'succeeded' : 'failed';
  }

  /** While it follows the destination's stream. */
  #watch(w: World, step: (name: string, happen: Choice['happen']) => Choice): Choice[] {
    const { d, c } = w;
    if (c.m?.phase !== 'receiving') return [];
    if (!d.up || d.m === null) {
      return [step('loses the destination', (x) => this.#event(x, silence(false)))];
    }
    const word = destinationSays(d);
    if (!['succeeded', 'failed', 'refused', 'in-doubt'].includes(word)) return [];
    return [step(`hears ${word}`, (x) => this.#event(x, { kind: 'destinationSays', word, error }))];
  }

  #doController(w: World): void {
    const { s, d } = w;
    const action = w.c.todo.shift();
    if (action === undefined || action === 'pause') return;
    if (action === 'receive' && d.up && d.m !== null) return; // joined
    if (action === 'receive' && d.up && d.journal === null) {
      d.m = destinationState(this.#p.destinationStart);
      d.streaming = false;
      this.#open(w, false);
    } else if (action === 'receive' || action === 'askDestination') {
      const says = { kind: 'destinationSays', word: destinationSays(d), error } as const;
      this.#event(w, d.up ? says : silence(false));
    } else if (!s.up) this.#event(w, { kind: 'sourceSilent', error });
    else if (action === 'callOff') this.#callOff(w);
    else this.#event(w, { kind: 'sourceSays', word: sourceState(s), error });
  }

  #callOff(w: World): void {
    const { s } = w;
    this.#source(w, 'cancel');
    if (undecided(s)) {
      // Asked, and waited for: the answer comes when it is decided.
      w.c.todo.unshift('callOff');
      return;
    }
    if (sourceState(s) === 'unknown') s.journal = 'cancelled';
    const word = sourceState(s);
    // A host that was started anew may have forgotten that it handed the container over.
    const forgot = word === 'cancelled' && s.copy === 'gone';
    this.#event(w, { kind: 'sourceSays', word: forgot ? 'in-doubt' : word, error });
  }

  /** Who has fenced the host that was started anew has the other one run it: `ferry resolve`. */
  #operator(w: World): Choice[] {
    const { s, d } = w;
    const found: Choice[] = [];
    const lost = d.rebooted || d.m?.phase === 'inDoubt';
    if (lost && d.copy === 'none' && s.up && s.m !== null && isHeld(s.m.phase)) {
      if (s.told === null && s.copy === 'held') {
        found.push({
          ...{ name: 'operator: run on the source', fault: false },
          happen: (x) => {
            // What it did went with the host that did it: the operator has decided to live with that.
            x.d.ran = false;
            this.#source(x, 'abandoned');
          },
        });
      }
    }
    if (s.rebooted && s.copy === 'gone' && d.up && d.m?.phase === 'asking' && d.told === null) {
      // With memory that went with the source there is nothing to run.
      found.push({
        ...{ name: `operator: ${w.later ? 'give it up' : 'run on the destination'}`, fault: false },
        happen: (x) => this.#destination(x, w.later ? 'failed' : 'granted'),
      });
    }
    return found;
  }

  /** A container whose memory went with the source's host is of no use to anybody. */
  #operatorRemoves({ s, d }: World, found: Choice[]): void {
    if (!s.rebooted || s.copy !== 'gone' || !d.fetches || !d.lacks) return;
    found.push({
      ...{ name: 'operator: removes what lacks memory', fault: false },
      happen: (x) => {
        [x.d.copy, x.d.lacks] = ['none', false];
      },
    });
  }

  // ---- faults -----------------------------------------------------------------------------------------------

  #faults(w: World): Choice[] {
    const found: Choice[] = [];
    const fault = (kind: keyof Budget, name: string, happen: Choice['happen']) => {
      if (w.left[kind] === 0) return;
      found.push({
        ...{ name: `* ${name}`, fault: true },
        happen: (x) => {
          x.left[kind] -= 1;
          happen(x);
        },
      });
    };
    const { s, d, c } = w;
    if (s.up) fault('crash', 'source killed', (x) => killSource(x, false));
    if (s.up && s.copy === 'held') {
      fault('killAll', 'source and tracer killed', (x) => killSource(x, true));
    }
    if (d.up) fault('crash', 'destination killed', killDestination);
    if (c.m !== null && c.redis.done === null) {
      fault('crash', 'controller killed', (x) => {
        [x.c.m, x.c.todo] = [null, []];
      });
    }
    if (w.link) {
      fault('cut', 'stream cut', (x) => {
        x.link = false;
      });
    }
    for (const message of new Set(w.net)) {
      fault('drop', `${message} lost`, (x) => {
        x.net.splice(x.net.indexOf(message), 1);
        x.link = false;
      });
      fault('dup', `${message} twice`, (x) => {
        x.net.push(message);
      });
    }
    this.#failures(w, fault);
    for (const wiped of [false, true]) {
      const how = wiped ? 'without its journal' : 'with its journal';
      fault('host', `source host started anew ${how}`, (x) => rebootSource(x, wiped));
      fault('host', `destination host started anew ${how}`, (x) => rebootDestination(x, wiped));
    }
    if (JSON.stringify(c.redis) !== JSON.stringify(c.saved)) {
      fault('redis', 'Redis loses its last second', (x) => {
        x.c.redis = { ...x.c.saved };
        [x.c.m, x.c.todo] = [null, []];
      });
    }
    return found;
  }

  #failures(
    w: World,
    fault: (kind: keyof Budget, name: string, happen: Choice['happen']) => void,
  ): void {
    const { s, d, c } = w;
    if (s.up && s.m !== null && s.told === null) {
      fault('clock', 'source times out', (x) => this.#source(x, 'timeout'));
      fault('cancel', 'source is asked to cancel', (x) => this.#source(x, 'cancel'));
    }
    if (d.up && d.m !== null && d.told === null) {
      fault('clock', 'destination times out', (x) => this.#destination(x, 'timeout'));
      fault('cancel', 'destination is asked to cancel', (x) => this.#destination(x, 'cancel'));
      if (!d.streaming || !w.link) {
        fault('clock', 'source silent for long', (x) => this.#destination(x, 'unreachable'));
      }
      // The restorer ends by itself.
      if (d.copy === 'ready' && d.m.phase === 'asking') {
        fault('fail', 'restored copy breaks', (x) => {
          x.d.copy = 'none';
          this.#destination(x, 'failed');
        });
      }
    }
    if (d.up && d.m === null && d.journal === null) {
      // It is told, and remembers, before it has heard of the migration; or after it has forgotten it.
      fault('cancel', 'destination is asked to cancel what it does not know', (x) => {
        x.d.journal = 'cancelled';
      });
    }
    if (d.up && d.told === null && d.fetches && d.lacks) {
      fault('fail', 'pager ends, and the container with it', (x) => {
        [x.d.copy, x.d.lacks, x.d.fetches, x.d.told] = ['none', false, false, 'failed fetch'];
      });
    }
    const canFail = ['freeze', 'journalCommit', 'recordReturn', 'destroy'];
    if (s.up && s.told === null && canFail.includes(s.todo[0] ?? '')) {
      fault('fail', `${s.todo[0]} fails`, (x) => {
        const [failed] = x.s.todo.splice(0, 1);
        if (failed === 'destroy') x.s.todo.shift();
        x.s.told = `failed ${failed === 'journalCommit' ? 'commit' : failed}`;
      });
    }
    const mayFail = ['prepare', 'restore', 'recordGrant', 'resume', 'clean'];
    if (d.up && d.told === null && mayFail.includes(d.todo[0] ?? '')) {
      fault('fail', `${d.todo[0]} fails`, (x) => {
        const [failed] = x.d.todo.splice(0, 1);
        // One that ends while it is told to go has not gone.
        if (failed === 'resume') x.d.copy = 'none';
        x.d.told = `failed ${failed}`;
      });
    }
    if (c.todo.some((action) => action !== 'pause')) {
      fault('call', 'a call of the controller is not answered', (x) => {
        const action = x.c.todo.shift();
        const source = action === 'askSource' || action === 'callOff';
        this.#event(x, source ? { kind: 'sourceSilent', error } : silence(true));
      });
    }
  }
}

/** One that is on its way already is the same message: that it comes twice is a fault of its own. */
function send(w: World, message: string): void {
  if (!w.net.includes(message)) w.net.push(message);
}

function silence(long: boolean): ControllerEvent {
  return { kind: 'destinationSilent', long, error };
}

function smallSteps(action: SourceAction): SourceStepName[] {
  if (action === 'commit') return ['hold', 'journalCommit'];
  if (action === 'thaw') return ['thaw', 'journalReclaim'];
  return action === 'destroy' ? ['destroy', 'journalDestroy'] : [action];
}

function killSource(w: World, tracerToo: boolean): void {
  const { s } = w;
  [s.up, s.m, s.todo, s.told, s.replaced] = [false, null, [], null, false];
  endConnections(w, 'S:');
  // A tracer that lost its agent reads the journal; the kernel lets go of what a dead tracer had stopped.
  if (s.copy === 'stopped' || (s.copy === 'held' && !tracerToo && s.journal !== 'committed')) {
    s.copy = 'runs';
  }
}

function killDestination(w: World): void {
  const { d } = w;
  [d.up, d.m, d.todo, d.told, d.streaming] = [false, null, [], null, false];
  endConnections(w, 'D:');
  d.fetches = false;
  // A restorer that was not told to go ends with its agent.
  if (d.copy === 'ready') d.copy = 'none';
}

/** Behind the name of a message: who sent it is no more. */
const DEAD = ', dead';

function withDead(message: string): string {
  return message.endsWith(DEAD) ? message : message + DEAD;
}

/** What was on its way to a program that ends does not reach the one that comes after it. */
function endConnections(w: World, to: 'S:' | 'D:'): void {
  w.link = false;
  w.net = w.net
    .filter((message) => !message.startsWith(to))
    .map((message) =>
      /^S:(open|again)/.test(message) && to === 'D:' ? withDead(message) : message,
    );
}

function rebootSource(w: World, wiped: boolean): void {
  killSource(w, true);
  w.s.copy = 'gone';
  w.s.rebooted = true;
  if (wiped) w.s.journal = null;
}

function rebootDestination(w: World, wiped: boolean): void {
  killDestination(w);
  [w.d.copy, w.d.lacks] = ['none', false];
  w.d.rebooted = true;
  if (wiped) w.d.journal = null;
}

function undecided(s: SourceHost): boolean {
  if (s.m === null) return false;
  return !isCommitted(s.m.phase) && !isSourceEnd(s.m.phase);
}

function listens(d: DestinationHost): boolean {
  return d.m !== null && ['asking', 'givingBack', 'inDoubt'].includes(d.m.phase);
}

function sourceWord(s: SourceHost): Redis['sourceWord'] {
  if (s.m?.phase === 'committed') return 'committed';
  return s.m?.phase === 'aborted' || s.m?.phase === 'returned' ? 'returned' : null;
}

function destinationWord(d: DestinationHost): Redis['destinationWord'] {
  if (d.m?.phase === 'reporting') return 'resumed';
  return d.m?.phase === 'givingBack' ? 'abandoned' : null;
}

function destinationState({ phase, silent, unbegun, error: why }: DestinationState) {
  return { phase, silent: silent === true, unbegun: unbegun === true, e: why !== undefined };
}

/** What QueryMigration answers; see Migrations.query and the sessions' status. */
function sourceState(s: SourceHost): AgentWord {
  if (s.m !== null) {
    if (s.m.phase === 'done') return 'succeeded';
    if (isCommitted(s.m.phase)) return 'committed';
    return isSourceEnd(s.m.phase) ? 'failed' : 'running';
  }
  const words: Partial<Record<Decision, AgentWord>> = {
    ...{
      committed: 'committed',
      returned: 'failed',
      reclaimed: 'failed',
      aborted: 'failed',
      destroyed: 'succeeded',
    },
    cancelled: 'cancelled',
  };
  return s.journal === null ? 'unknown' : (words[s.journal] ?? 'unknown');
}

function destinationSays(d: DestinationHost): AgentWord {
  if (d.m === null) {
    if (d.journal === 'succeeded') return 'succeeded';
    if (d.journal === 'cancelled') return 'refused';
    return d.journal === 'abandoned' ? 'failed' : 'unknown';
  }
  const { phase, silent, unbegun } = d.m;
  if (phase === 'failed' && unbegun) return 'refused';
  if (phase === 'succeeded' || phase === 'failed') return phase;
  if (phase === 'inDoubt') return 'in-doubt';
  if (phase === 'asking' || phase === 'givingBack') return silent ? 'in-doubt' : 'running';
  if (phase === 'reporting') return silent ? 'succeeded' : 'committed';
  const decided = phase === 'accepting' || phase === 'resuming' || phase === 'fetching';
  return decided ? 'committed' : 'running';
}

// ---- what must hold -----------------------------------------------------------------------------------------

/** What is wrong with a world as it is; undefined when nothing is. */
export function violation({ s, d, c }: World): string | undefined {
  if (s.copy === 'runs' && d.copy === 'runs') return 'two copies run';
  if (s.copy === 'runs' && d.ran) return 'the source runs on from before what the destination did';
  if (s.copy === 'runs' && s.journal === 'committed') return 'the source runs what it has granted';
  if (d.copy === 'runs' && (d.journal === null || d.journal === 'receiving')) {
    return 'the destination runs what it has no right to, by its journal';
  }
  if (s.journal === 'committed' && c.redis.done === 'failed') {
    return 'it is called failed while the source is bound to keep its copy frozen';
  }
  const hostLost = s.rebooted || d.rebooted;
  if (s.copy === 'gone' && d.copy !== 'runs' && !hostLost) return 'no copy is left';
  if (d.lacks && s.copy !== 'held' && !hostLost) return 'memory that has not come is gone';
  return undefined;
}

/** Whether a run has come to its end: one copy runs, or the host that had it is gone, and nobody holds anything. */
export function isSettled(w: World): boolean {
  const { s, d, c } = w;
  if (!s.up || !d.up || s.told !== null || d.told !== null) return false;
  if (s.todo.length > 0 || d.todo.length > 0) return false;
  if (s.m !== null && !isSourceEnd(s.m.phase)) return false;
  if (d.m !== null && !isDestinationEnd(d.m.phase)) return false;
  if (s.copy === 'stopped' || s.copy === 'held' || d.copy === 'ready') return false;
  if (c.redis.done === null) return false;
  // An agent that starts later finds nothing to do: by then the container may be on other ways.
  if (s.journal === 'committed' || s.journal === 'returned') return false;
  if (d.journal === 'receiving' || d.journal === 'granted' || d.journal === 'resumed') return false;
  // What the controller says must be so.
  if (c.redis.done === 'succeeded' && s.copy === 'runs') return false;
  if (c.redis.done === 'failed' && d.copy === 'runs') return false;
  const hostLost = s.rebooted || d.rebooted;
  return s.copy === 'runs' || d.copy === 'runs' || hostLost;
}
