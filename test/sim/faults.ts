import { type ControllerSide, silence } from './controller-host.js';
import type { DestinationAgent } from './destination-host.js';
import { killDestination, killSource, rebootDestination, rebootSource } from './harms.js';
import type { SourceAgent } from './source-host.js';
import { type Budget, type Choice, error, type World } from './world.js';

/** What may go wrong next, as far as the budget goes. */
export class Faults {
  readonly #source: SourceAgent;
  readonly #destination: DestinationAgent;
  readonly #controller: ControllerSide;

  constructor(sides: {
    source: SourceAgent;
    destination: DestinationAgent;
    controller: ControllerSide;
  }) {
    this.#source = sides.source;
    this.#destination = sides.destination;
    this.#controller = sides.controller;
  }

  choices(w: World): Choice[] {
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
      fault('clock', 'source times out', (x) => this.#source.feed(x, 'timeout'));
      fault('cancel', 'source is asked to cancel', (x) => this.#source.feed(x, 'cancel'));
    }
    if (d.up && d.m !== null && d.told === null) {
      fault('clock', 'destination times out', (x) => this.#destination.feed(x, 'timeout'));
      fault('cancel', 'destination is asked to cancel', (x) => this.#destination.feed(x, 'cancel'));
      if (!d.streaming || !w.link) {
        fault('clock', 'source silent for long', (x) => this.#destination.feed(x, 'unreachable'));
      }
      // The restorer ends by itself.
      if (d.copy === 'ready' && d.m.phase === 'asking') {
        fault('fail', 'restored copy breaks', (x) => {
          x.d.copy = 'none';
          this.#destination.feed(x, 'failed');
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
        this.#controller.feed(x, source ? { kind: 'sourceSilent', error } : silence(true));
      });
    }
  }
}
