import type { DataRef, ProgramBuilder, ZeroRef } from '@ferry/dumpbin';
import { TracedThread, threadsOf, writeMemory } from '@ferry/linux';
import type { InjectedProgram } from './injection.js';
import type { Steps } from './steps.js';

/** security/landlock/limits.h: LANDLOCK_MAX_NUM_LAYERS */
const LAYERS_MAX = 16;
const E2BIG = -7n;
const ACCESS_FS_EXECUTE = 1;
const PR_SET_NO_NEW_PRIVS = 38;
const STACK = 8192;
const SLOTS = 2048;
const TIMEOUT_MS = 1000;

/** How many Landlock domains a process is in: the kernel tells nobody. But a thread can add a domain of its own, to itself
 *  alone, and 16 of them at most (landlock_restrict_self(2)): a thread that is made for it, adds what it can and ends.
 *
 *  Filters of seccomp could end the process for that: it spins until it is traced, which suspends them. */
export class LandlockProbe {
  readonly #go: DataRef;
  readonly #results: DataRef;
  readonly #over: DataRef;
  readonly #stack: ZeroRef;
  readonly #slots: ZeroRef;

  constructor(b: ProgramBuilder) {
    this.#go = b.reserve(8);
    this.#results = b.reserve(LAYERS_MAX * 8);
    this.#over = b.reserve(8);
    this.#stack = b.zeroed(STACK).plus(STACK);
    this.#slots = b.zeroed(SLOTS);
  }

  /** In the thread that is asked first: makes the other one. */
  emit(b: ProgramBuilder): void {
    const [entry, after, again, on] = [b.label(), b.label(), b.label(), b.label()];
    const step = 'Landlock';
    const any = { expect: 'any' } as const;
    b.op('thread', [0, this.#stack, this.#slots], step, { target: entry, ...any });
    b.op('jump', [0, 0], step, { target: after });
    b.place(entry);
    const [word, ruleset, result] = [b.slot(), b.slot(), b.slot()];
    b.place(again);
    b.load(this.#go, 8, word, step);
    b.op('jump', [word, 1], step, { target: on });
    b.op('jump', [0, 0], step, { target: again });
    b.place(on);
    b.sys('prctl', [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0], step, any);
    const attributes = b.words(ACCESS_FS_EXECUTE);
    b.sys('landlock_create_ruleset', [attributes, 8, 0], step, { ...any, into: ruleset });
    for (let i = 0; i < LAYERS_MAX; i++) {
      b.sys('landlock_restrict_self', [ruleset, 0], step, { ...any, into: result });
      b.store(result, this.#results.plus(i * 8), 8, step);
    }
    b.sys('close', [ruleset], step, any);
    b.op('store', [this.#over, 1, 8], step);
    b.sys('exit', [0], step, any);
    b.place(after);
  }

  /** @param known  the threads that the process had
   *  @returns 0 too where it cannot be found out (no room for a thread or a descriptor) */
  *layers(injected: InjectedProgram, hostPid: number, known: readonly number[]): Steps<number> {
    const tid = threadsOf(hostPid).find((candidate) => !known.includes(candidate));
    if (tid === undefined) return 0;
    const traced = TracedThread.seize(tid);
    const go = Buffer.alloc(8, 0);
    go.writeBigUInt64LE(1n);
    writeMemory(hostPid, injected.address(this.#go), go);
    const deadline = performance.now() + TIMEOUT_MS;
    const isOver = () => injected.read(this.#over, 8).readBigUInt64LE() === 1n;
    while (!isOver() && performance.now() < deadline) yield;
    while (traced.wait().kind !== 'exited') traced.cont();
    const bytes = injected.read(this.#results, LAYERS_MAX * 8);
    const results = Array.from({ length: LAYERS_MAX }, (_, i) => bytes.readBigInt64LE(i * 8));
    return results.filter((result) => result === E2BIG).length;
  }
}
