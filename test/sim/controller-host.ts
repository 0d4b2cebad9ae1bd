import {
  type ControllerEvent,
  isControllerEnd,
} from '../../packages/migration/src/controller-machine.js';
import { isHeld } from '../../packages/migration/src/source-machine.js';
import type { DestinationAgent } from './destination-host.js';
import type { Protocol } from './protocol.js';
import type { SourceAgent } from './source-host.js';
import { destinationSays, sourceSays, undecided } from './words.js';
import { type Choice, destinationState, error, type World } from './world.js';

/** The controller with its Redis, and the operator who is asked when it cannot tell. */
export class ControllerSide {
  readonly #p: Protocol;
  readonly #source: SourceAgent;
  readonly #destination: DestinationAgent;

  constructor(protocol: Protocol, agents: { source: SourceAgent; destination: DestinationAgent }) {
    this.#p = protocol;
    this.#source = agents.source;
    this.#destination = agents.destination;
  }

  choices(w: World): Choice[] {
    const { c } = w;
    if (c.redis.done !== null) return [];
    return [...this.#next(w), ...savings(w)];
  }

  #next(w: World): Choice[] {
    const { c } = w;
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

  /** Tells the machine what was heard, and notes what it wants done. */
  feed(w: World, event: ControllerEvent): void {
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
      return [step('loses the destination', (x) => this.feed(x, silence(false)))];
    }
    const word = destinationSays(d);
    if (!['succeeded', 'failed', 'refused', 'in-doubt'].includes(word)) return [];
    return [step(`hears ${word}`, (x) => this.feed(x, { kind: 'destinationSays', word, error }))];
  }

  #doController(w: World): void {
    const { s, d } = w;
    const action = w.c.todo.shift();
    if (action === undefined || action === 'pause') return;
    if (action === 'receive' && d.up && d.m !== null) return; // joined
    if (action === 'receive' && d.up && d.journal === null) {
      d.m = destinationState(this.#p.destinationStart);
      d.streaming = false;
      this.#destination.open(w, false);
    } else if (action === 'receive' || action === 'askDestination') {
      const says = { kind: 'destinationSays', word: destinationSays(d), error } as const;
      this.feed(w, d.up ? says : silence(false));
    } else if (!s.up) this.feed(w, { kind: 'sourceSilent', error });
    else if (action === 'callOff') this.#callOff(w);
    else this.feed(w, { kind: 'sourceSays', word: sourceSays(s), error });
  }

  #callOff(w: World): void {
    const { s } = w;
    this.#source.feed(w, 'cancel');
    if (undecided(s)) {
      // Asked, and waited for: the answer comes when it is decided.
      w.c.todo.unshift('callOff');
      return;
    }
    if (sourceSays(s) === 'unknown') s.journal = 'cancelled';
    const word = sourceSays(s);
    // A host that was started anew may have forgotten that it handed the container over.
    const forgot = word === 'cancelled' && s.copy === 'gone';
    this.feed(w, { kind: 'sourceSays', word: forgot ? 'in-doubt' : word, error });
  }

  /** Who has fenced the host that was started anew has the other one run it: `ferry resolve`. */
  #operator(w: World): Choice[] {
    const { s, d } = w;
    const found: Choice[] = [];
    const lost = d.rebooted || d.m?.phase === 'inDoubt';
    if (lost && d.copy === 'none' && s.up && s.m !== null && isHeld(s.m.phase)) {
      // Where both copies went with their hosts, that ends it all the same.
      if (s.told === null && (s.copy === 'held' || s.copy === 'gone')) {
        found.push({
          ...{ name: 'operator: run on the source', fault: false },
          happen: (x) => {
            // What it did went with the host that did it: the operator has decided to live with that.
            x.d.ran = false;
            this.#source.feed(x, 'abandoned');
          },
        });
      }
    }
    if (s.rebooted && s.copy === 'gone' && d.up && d.m?.phase === 'asking' && d.told === null) {
      // With memory that went with the source there is nothing to run.
      found.push({
        ...{ name: `operator: ${w.later ? 'give it up' : 'run on the destination'}`, fault: false },
        happen: (x) => this.#destination.feed(x, w.later ? 'failed' : 'granted'),
      });
    }
    return found;
  }

  /** A container whose memory went with the source's host is of no use to anybody. */
  operatorRemoves({ s, d }: World, found: Choice[]): void {
    if (!s.rebooted || s.copy !== 'gone' || !d.fetches || !d.lacks) return;
    found.push({
      ...{ name: 'operator: removes what lacks memory', fault: false },
      happen: (x) => {
        [x.d.copy, x.d.lacks] = ['none', false];
      },
    });
  }
}

/** Only where its last second may be lost does it matter when Redis writes. */
function savings({ c, left }: World): Choice[] {
  if (left.redis === 0 || JSON.stringify(c.redis) === JSON.stringify(c.saved)) return [];
  const happen: Choice['happen'] = (x) => {
    x.c.saved = { ...x.c.redis };
  };
  return [{ name: 'Redis writes to its disk', fault: false, happen }];
}

export function silence(long: boolean): ControllerEvent {
  return { kind: 'destinationSilent', long, error };
}
