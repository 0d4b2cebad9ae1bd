import type { DataRef, ProgramBuilder, ZeroRef } from '@ferry/dumpbin';
import { sys, type TracedThread, writeMemory } from '@ferry/linux';
import type { InjectedProgram } from './injection.js';
import type { Steps } from './steps.js';

/** security/landlock/limits.h: LANDLOCK_MAX_NUM_LAYERS */
const LAYERS_MAX = 16;
const E2BIG = -7n;
const ACCESS_FS_EXECUTE = 1;
const PR_SET_NO_NEW_PRIVS = 38;
const STACK = 8192;
const SLOTS = 2048;

/** How many Landlock domains a process is in: the kernel tells nobody. But a thread can add a domain of its own, to itself
 *  alone, and 16 of them at most (landlock_restrict_self(2)): a thread that is made for it, adds what it can and ends.
 *
 *  Filters of seccomp could end the process for that. The thread is traced from its beginning, which suspends them, and
 *  does nothing before it is told: should its tracer be killed until then, it ends. */
export class LandlockProbe {
  readonly #told: DataRef;
  readonly #results: DataRef;
  readonly #stack: ZeroRef;
  readonly #slots: ZeroRef;
  #thread: TracedThread | undefined;

  constructor(b: ProgramBuilder) {
    this.#told = b.reserve(8);
    this.#results = b.reserve(LAYERS_MAX * 8);
    this.#stack = b.zeroed(STACK).plus(STACK);
    this.#slots = b.zeroed(SLOTS);
  }

  /** In the thread that is asked first: makes the other one. */
  emit(b: ProgramBuilder): void {
    const [entry, after, end] = [b.label(), b.label(), b.label()];
    const step = 'Landlock';
    const any = { expect: 'any' } as const;
    b.op('thread', [0, this.#stack, this.#slots], step, { target: entry, ...any });
    b.op('jump', [0, 0], step, { target: after });
    b.place(entry);
    const [word, ruleset, result] = [b.slot(), b.slot(), b.slot()];
    b.load(this.#told, 8, word, step);
    b.op('jump', [word, 0], step, { target: end });
    b.sys('prctl', [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0], step, any);
    const attributes = b.words(ACCESS_FS_EXECUTE);
    b.sys('landlock_create_ruleset', [attributes, 8, 0], step, { ...any, into: ruleset });
    for (let i = 0; i < LAYERS_MAX; i++) {
      b.sys('landlock_restrict_self', [ruleset, 0], step, { ...any, into: result });
      b.store(result, this.#results.plus(i * 8), 8, step);
    }
    b.sys('close', [ruleset], step, any);
    b.place(end);
    b.sys('exit', [0], step, any);
    b.place(after);
  }

  /** While the thread that is asked first runs: takes hold of the other one, and lets both go on. Repeatable. */
  take(leader: TracedThread, injected: InjectedProgram, hostPid: number): void {
    if (this.#thread !== undefined || leader.poll()?.kind !== 'cloned') return;
    this.#thread = leader.cloned();
    leader.followClones(false);
    leader.cont();
    const told = Buffer.alloc(8);
    told.writeBigUInt64LE(1n);
    writeMemory(hostPid, injected.address(this.#told), told);
  }

  /** @returns 0 too where it cannot be found out (no room for a thread or a descriptor) */
  *layers(injected: InjectedProgram): Steps<number> {
    const thread = this.#thread;
    if (thread === undefined) return 0;
    for (;;) {
      const stop = thread.poll();
      if (stop?.kind === 'exited') break;
      if (stop !== undefined) thread.cont();
      else sys('sched_yield'); // it may need the very processor that this runs on
      yield;
    }
    const bytes = injected.read(this.#results, LAYERS_MAX * 8);
    const results = Array.from({ length: LAYERS_MAX }, (_, i) => bytes.readBigInt64LE(i * 8));
    return results.filter((result) => result === E2BIG).length;
  }
}
