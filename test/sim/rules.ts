import { isHeld } from '../../packages/migration/src/source-machine.js';
import { ControllerSide } from './controller-host.js';
import { DestinationAgent } from './destination-host.js';
import { Faults } from './faults.js';
import type { Protocol } from './protocol.js';
import { SourceAgent } from './source-host.js';
import { destinationWord, listens, sourceWord } from './words.js';
import type { Add, Choice, World } from './world.js';

/** What can happen in a world, by a protocol. */
export class Rules {
  readonly #source: SourceAgent;
  readonly #destination: DestinationAgent;
  readonly #controller: ControllerSide;
  readonly #faults: Faults;

  constructor(protocol: Protocol) {
    const source = new SourceAgent(protocol);
    const destination = new DestinationAgent(protocol);
    const controller = new ControllerSide(protocol, { source, destination });
    this.#source = source;
    this.#destination = destination;
    this.#controller = controller;
    this.#faults = new Faults({ source, destination, controller });
  }

  choices(w: World): Choice[] {
    return [
      ...this.#agents(w),
      ...this.#network(w),
      ...this.#controller.choices(w),
      ...this.#faults.choices(w),
    ];
  }

  #agents(w: World): Choice[] {
    const found: Choice[] = [];
    const add = (name: string, happen: Choice['happen']) => {
      found.push({ name, fault: false, happen });
    };
    const { s, d } = w;
    if (!s.up) add('source starts', (x) => this.#source.start(x));
    else if (s.told !== null) add(`source: ${s.told}`, (x) => this.#source.told(x));
    else if (s.todo[0] !== undefined) add(`source does ${s.todo[0]}`, (x) => this.#source.act(x));
    if (s.up && s.m?.connected && (!w.link || s.replaced)) {
      add('source sees the stream broken', (x) => this.#source.feed(x, 'lost'));
    }
    if (!d.up) add('destination starts', (x) => this.#destination.start(x));
    else if (d.told !== null) add(`destination: ${d.told}`, (x) => this.#destination.told(x));
    else if (d.todo[0] !== undefined) {
      add(`destination does ${d.todo[0]}`, (x) => this.#destination.act(x));
    }
    if (d.fetches && d.told === null) this.#destination.memory(w, add);
    if (d.up && d.streaming && !w.link) {
      add('destination sees the stream broken', (x) => {
        x.d.streaming = false;
        this.#destination.feed(x, 'lost');
      });
    }
    if (s.rebooted && d.up && d.told === null && d.m?.phase === 'asking' && !d.m.silent) {
      // It gets answers that are none; after a while that is a doubt.
      add('destination doubts', (x) => this.#destination.feed(x, 'unreachable'));
    }
    this.#words(w, add);
    this.#controller.operatorRemoves(w, found);
    return found;
  }

  /** By way of the controller's Redis, with the heartbeats. */
  #words(w: World, add: Add): void {
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
      add(`source hears ${other} by the controller`, (x) => this.#source.feed(x, other));
    }
    const useful = heard === 'committed' ? d.m?.phase === 'asking' : listens(d);
    if (d.up && d.told === null && heard !== null && useful) {
      const kind = heard === 'committed' ? 'granted' : 'aborted';
      add(`destination hears ${heard} by the controller`, (x) => this.#destination.feed(x, kind));
    }
  }

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
          if (toSource) this.#source.gets(x, message.slice(2));
          else this.#destination.gets(x, message.slice(2));
        },
      });
    }
    return found;
  }
}
