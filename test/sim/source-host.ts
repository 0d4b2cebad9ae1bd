import type { Opening } from '../../packages/migration/src/opening.js';
import type { SourceAction, SourceEvent } from '../../packages/migration/src/source-machine.js';
import { DEAD } from './harms.js';
import type { Protocol } from './protocol.js';
import { error, type SourceStepName, send, type World } from './world.js';

/** The source's agent: its machine, and what the actions of that do to a host and its copy. */
export class SourceAgent {
  readonly #p: Protocol;

  constructor(protocol: Protocol) {
    this.#p = protocol;
  }

  /** Tells the machine of an event, and notes what it wants done. */
  feed(w: World, kind: SourceEvent['kind'], during?: string): void {
    const { s } = w;
    if (s.m === null) return;
    const before = { phase: s.m.phase, connected: s.m.connected, ...(s.m.e ? { error } : {}) };
    const { state, actions } = this.#p.sourceStep(before, { kind, error, during } as SourceEvent);
    s.m = { phase: state.phase, connected: state.connected, e: state.error !== undefined };
    if (kind === 'lost') s.replaced = false;
    s.todo.push(...actions.flatMap(smallSteps));
  }

  /** What was done last is told to the machine. */
  told(w: World): void {
    const [kind, during] = (w.s.told ?? '').split(' ');
    w.s.told = null;
    this.feed(w, kind as SourceEvent['kind'], during);
  }

  /** Does the next small step. */
  act(w: World): void {
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
  start(w: World): void {
    const { s } = w;
    s.up = true;
    if (s.journal === 'committed' || s.journal === 'returned') {
      if (s.journal === 'committed' && s.copy !== 'gone') s.copy = 'held';
      const { state, actions } = this.#p.sourceRestart(s.journal);
      s.m = { phase: state.phase, connected: false, e: state.error !== undefined };
      s.todo = actions.flatMap(smallSteps);
    } else if (s.copy !== 'gone') s.copy = 'runs';
  }

  /** A message has come. */
  gets(w: World, message: string): void {
    if (message.endsWith(DEAD)) this.#openedByDead(w, message.slice(0, -DEAD.length));
    else if (message === 'open' || message.startsWith('again')) this.#opened(w, message);
    else if (message === 'freeze') this.feed(w, 'freezeAsked');
    else if (message === 'ready') this.feed(w, 'ready');
    else if (message === 'running') this.feed(w, 'running');
    else if (message === 'resumed') this.feed(w, 'resumed');
    else if (message === 'abort') this.feed(w, 'abortAsked');
    else if (message === 'abandoned') this.feed(w, 'abandoned');
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
      if (s.m?.connected) this.feed(w, 'lost');
      this.feed(w, 'reopened');
    } else {
      if (answer === 'beganBefore') this.feed(w, 'cancel');
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
    if ((answer === 'begin' || answer === 'join') && w.s.m?.connected) this.feed(w, 'lost');
  }
}

function smallSteps(action: SourceAction): SourceStepName[] {
  if (action === 'commit') return ['hold', 'journalCommit'];
  if (action === 'thaw') return ['thaw', 'journalReclaim'];
  return action === 'destroy' ? ['destroy', 'journalDestroy'] : [action];
}
