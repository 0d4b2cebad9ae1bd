import type { World } from './world.js';

export function killSource(w: World, tracerToo: boolean): void {
  const { s } = w;
  [s.up, s.m, s.todo, s.told, s.replaced] = [false, null, [], null, false];
  endConnections(w, 'S:');
  // A tracer that lost its agent reads the journal; the kernel lets go of what a dead tracer had stopped.
  if (s.copy === 'stopped' || (s.copy === 'held' && !tracerToo && s.journal !== 'committed')) {
    s.copy = 'runs';
  }
}

export function killDestination(w: World): void {
  const { d } = w;
  [d.up, d.m, d.todo, d.told, d.streaming] = [false, null, [], null, false];
  endConnections(w, 'D:');
  d.fetches = false;
  // A restorer that was not told to go ends with its agent.
  if (d.copy === 'ready') d.copy = 'none';
}

/** Behind the name of a message: who sent it is no more. */
export const DEAD = ', dead';

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

export function rebootSource(w: World, wiped: boolean): void {
  killSource(w, true);
  w.s.copy = 'gone';
  w.s.rebooted = true;
  if (wiped) w.s.journal = null;
}

export function rebootDestination(w: World, wiped: boolean): void {
  killDestination(w);
  [w.d.copy, w.d.lacks] = ['none', false];
  w.d.rebooted = true;
  if (wiped) w.d.journal = null;
}
