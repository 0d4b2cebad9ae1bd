import type {
  DestinationAction,
  DestinationEvent,
} from '../../packages/migration/src/destination-machine.js';
import {
  isCancellable,
  isDestinationEnd,
} from '../../packages/migration/src/destination-machine.js';
import { isHeld } from '../../packages/migration/src/source-machine.js';
import type { Protocol } from './protocol.js';
import { type Add, destinationState, error, send, type World } from './world.js';

/** The destination's agent: its machine, and what the actions of that do to a host and its copy. */
export class DestinationAgent {
  readonly #p: Protocol;

  constructor(protocol: Protocol) {
    this.#p = protocol;
  }

  /** Streams of their own, opened again and again: all that counts is whether both agents are there. */
  memory(w: World, add: Add): void {
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

  /** Tells the machine of an event, and notes what it wants done. */
  feed(w: World, kind: DestinationEvent['kind'], during?: string): void {
    const { d } = w;
    if (d.m === null) return;
    const { phase, silent, unbegun } = d.m;
    const before = { phase, silent, unbegun, ...(d.m.e ? { error } : {}) };
    const event = { kind, error, during, later: w.later } as DestinationEvent;
    const { state, actions } = this.#p.destinationStep(before, event);
    d.m = destinationState(state);
    this.#begin(w, actions);
    // It closes the stream; what it has sent arrives all the same.
    if (isDestinationEnd(state.phase)) [d.streaming, w.link] = [false, false];
  }

  #begin(w: World, actions: readonly DestinationAction[]): void {
    for (const action of actions) {
      if (action === 'tellAbort') this.#tell(w, 'abort');
      else if (action === 'reopen') this.open(w, true);
      else if (w.d.todo.at(-1) !== action) w.d.todo.push(action);
    }
  }

  #tell(w: World, message: string): void {
    if (w.d.streaming) send(w, `S:${message}`);
  }

  /** A stream to the source, the first or `again`. */
  open(w: World, again: boolean): void {
    if (w.d.streaming) return;
    w.d.streaming = true;
    w.link = true;
    // What the source still holds is the stream before this one.
    w.s.replaced = w.s.m?.connected === true;
    send(w, again ? `S:again${w.d.m?.phase === 'asking' ? '?' : ''}` : 'S:open');
  }

  /** What was done last is told to the machine. */
  told(w: World): void {
    const [kind, during] = (w.d.told ?? '').split(' ');
    w.d.told = null;
    this.feed(w, kind as DestinationEvent['kind'], during);
  }

  /** Does the next action. */
  act(w: World): void {
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

  /** Goes on where its journal and what it finds say. */
  start(w: World): void {
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
    this.#begin(w, actions);
  }

  /** A message has come. */
  gets(w: World, message: string): void {
    const { d } = w;
    if (d.m === null) return;
    if (message === 'refused' || message === 'unknown') {
      d.streaming = false;
      const early = isCancellable(d.m.phase);
      this.feed(w, message === 'unknown' || early ? 'aborted' : 'lost');
      return;
    }
    if (d.m.silent) this.feed(w, 'reopened');
    const kinds: Record<string, DestinationEvent['kind']> = {
      ...{ described: 'described', image: 'imageReceived', grant: 'granted' },
      ...{ done: 'done', abort: 'aborted' },
    };
    const kind = kinds[message];
    if (kind !== undefined) this.feed(w, kind);
  }
}
