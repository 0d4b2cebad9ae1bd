import { once } from 'node:events';
import { Socket } from 'node:net';
import { FerryError, InvariantError } from '@ferry/core';
import {
  buildStore,
  compileTree,
  FATE,
  loaderFile,
  PAGE,
  restorer,
  type SkeletonPrograms,
} from '@ferry/dumpbin';
import { TreeImage, validateTree } from '@ferry/image';
import { call, cString, ERRNO, OwnedFd, sys, sysError } from '@ferry/linux';

/** Name of the memory file that a restorer's programs are in. */
export const LOADER_STORE = 'ferry-store';

// memfd_create(2), socketpair(2), open(2)
const MFD_CLOEXEC = 1;
const MFD_EXEC = 0x10;
const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 0o2000001;
const O_RDONLY_CLOEXEC = 0o2000000;

/** Tasks that all wait to be let go are gone within milliseconds. */
const GO_PATIENCE_MS = 3000;

/** What PID 1 of the container is started as: descriptors 3, 4, 5 and 6 are `Loader.fds`. */
export const loaderCommand = {
  entry: '/proc/self/fd/3',
  args: ['--folder-fd', '5', '--control-fd', '4', '--fate-fd', '6'],
} as const;

/** The tasks of a tree of one thread: it, and the root's helper. */
const ONE_AND_KEEPER = 2;

/** Dump files of a tree, one after the other, and where the root's begins. */
export interface ProgramStore {
  readonly store: Buffer;
  readonly rootOffset: bigint;
}

/** This build's loader. */
export function loaderProgram(): Buffer {
  return loaderFile(restorer());
}

/** Programs for this build's loader that rebuild the tree of `image`, given its memory from outside.
 *  @throws FerryError image.*, dumpbin.* when the image, which may come from a peer, asks for what cannot be */
export function compilePrograms(image: Buffer): ProgramStore {
  const tree = TreeImage.decode(image);
  validateTree(tree);
  const code = restorer();
  return buildStore(compileTree(tree, { pages: 'external', restorer: code }), code);
}

/** The restorer as a container's first process, seen from the agent. It waits for its program, so that everything that
 *  takes time (runtime, mounts, namespaces) is done before the source is frozen. Order: `closeChildEnds` once it was
 *  started, `load`, `laidOut`, (write the pages), `pagesWritten`, `ready`, `go`. In two phases: `loadSkeleton`, `laidOut`,
 *  (write pages), any number of times `loadRefresh`, `adjusted`, (write pages); then `loadFinish`, `adjusted`, (write the
 *  last pages), `pagesWritten`, `ready`, `go`. Any of them throws when it has ended. */
export class Loader {
  readonly #ends: OwnedFd[];
  readonly #store: OwnedFd;
  readonly #fate: OwnedFd;
  readonly #control: Socket;
  #received = '';
  #ended = false;
  #wake: () => void = () => {};

  private constructor(ends: OwnedFd[], kept: { store: OwnedFd; fate: OwnedFd }, control: Socket) {
    this.#ends = ends;
    this.#store = kept.store;
    this.#fate = kept.fate;
    this.#control = control;
    control.on('data', (data) => {
      this.#received += data.toString('latin1');
      this.#wake();
    });
    const end = () => {
      this.#ended = true;
      this.#wake();
    };
    control.on('error', end).on('end', end).on('close', end);
  }

  /** @param file  the loader's executable: the one that belongs to the programs it will be given */
  static create(file: Buffer): Loader {
    const program = memfd('ferry-loader', file, MFD_CLOEXEC | MFD_EXEC);
    // A file that is open for writing cannot be executed (ETXTBSY).
    const path = cString(`/proc/self/fd/${program.number}`);
    const executable = new OwnedFd(call('open', path, O_RDONLY_CLOEXEC, 0));
    program[Symbol.dispose]();
    const pair = Buffer.alloc(8);
    call('socketpair', AF_UNIX, SOCK_STREAM_CLOEXEC, 0, pair);
    const theirs = new OwnedFd(pair.readInt32LE(4));
    const store = memfd(LOADER_STORE, Buffer.alloc(0), MFD_CLOEXEC);
    const fate = memfd('ferry-fate', Buffer.alloc(PAGE), MFD_CLOEXEC);
    const control = new Socket({ fd: pair.readInt32LE(0), readable: true, writable: true });
    return new Loader([executable, theirs], { store, fate }, control);
  }

  /** For descriptors 3 to 6 of the container's first process. */
  get fds(): number[] {
    return [...this.#ends, this.#store, this.#fate].map((end) => end.number);
  }

  /** Ours of the descriptors that the process now has: its end of the socket must close with it. */
  closeChildEnds(): void {
    for (const end of this.#ends.splice(0)) end[Symbol.dispose]();
  }

  /** Gives it its programs. */
  async load({ store, rootOffset }: ProgramStore): Promise<void> {
    writeAll(this.#store.number, store);
    const message = Buffer.alloc(8);
    message.writeBigUInt64LE(rootOffset);
    await this.#say(message);
  }

  /** Gives it the programs of a skeleton. */
  async loadSkeleton({ parts, rootOffset }: SkeletonPrograms): Promise<void> {
    for (const { at, bytes } of parts) writeAt(this.#store.number, bytes, at);
    const message = Buffer.alloc(8);
    message.writeBigUInt64LE(rootOffset);
    await this.#say(message);
  }

  /** Gives the processes of a skeleton programs that change their layout. */
  async loadRefresh({ parts }: SkeletonPrograms): Promise<void> {
    for (const { at, bytes } of parts) writeAt(this.#store.number, bytes, at);
    await this.#say('F');
  }

  /** Gives the processes of a skeleton the programs that restore everything. */
  async loadFinish(programs: SkeletonPrograms): Promise<void> {
    await this.loadRefresh(programs);
  }

  /** The processes of a skeleton have the layout of the last refresh or finish; new processes are there, and what was
   *  mapped anew is empty. */
  async adjusted(signal?: AbortSignal): Promise<void> {
    await this.#hear('A', signal);
  }

  /** Every process has its memory, to be filled. */
  async laidOut(signal?: AbortSignal): Promise<void> {
    await this.#hear('L', signal);
  }

  async pagesWritten(): Promise<void> {
    await this.#say('P');
  }

  /** All is restored, and nothing of it runs. */
  async ready(signal?: AbortSignal): Promise<void> {
    await this.#hear('R', signal);
  }

  /** Lets it run; returns when the restorer has gone out of its way, or ended (`ran` tells which).
   *  @throws FerryError restore.stuck: one of its processes has been killed, and the others wait for it. Some may yet be
   *  let go: nothing is certain before all of them have ended */
  async go(): Promise<void> {
    await this.#say('G');
    const patience = AbortSignal.timeout(GO_PATIENCE_MS);
    try {
      while (!this.#ended) await this.#change(patience);
    } catch {
      const message = 'A restored process was killed before it was let go';
      throw new FerryError('restore.stuck', message, { remedy: 'see whether memory ran out' });
    }
  }

  /** Whether anything of the tree has run, or runs, once the restorer has gone or ended: exact, however that came. */
  get ran(): boolean {
    const page = Buffer.alloc(PAGE);
    call('pread64', this.#fate.number, page, page.length, 0);
    const goes = page.readUInt32LE(FATE.goes);
    const gone = page.readUInt32LE(FATE.gone);
    // The last steps come after the meeting. Who fails at them has not run; others may have.
    const failedAlone = gone >= FATE.failed && goes === ONE_AND_KEEPER;
    return goes > 0 && gone % FATE.failed >= goes && !failedAlone;
  }

  get hasEnded(): boolean {
    return this.#ended;
  }

  /** A loader that has not been told to go ends with its control socket. */
  close(): void {
    this.closeChildEnds();
    this.#store[Symbol.dispose]();
    this.#fate[Symbol.dispose]();
    this.#control.destroy();
  }

  async #say(what: string | Buffer): Promise<void> {
    if (this.#ended) throw gone();
    if (this.#control.write(what)) return;
    // Or it has just ended, which its end of the socket tells first (EPIPE).
    await once(this.#control, 'drain').catch((cause: unknown) => {
      throw gone(cause);
    });
  }

  async #hear(letter: string, signal?: AbortSignal): Promise<void> {
    while (this.#received === '') {
      if (this.#ended) throw gone();
      await this.#change(signal);
    }
    const [got] = this.#received;
    this.#received = this.#received.slice(1);
    if (got !== letter) throw new InvariantError(`The restorer said "${got}", not "${letter}"`);
  }

  async #change(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const abort = () => reject(signal?.reason);
      signal?.addEventListener('abort', abort, { once: true });
      this.#wake = () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
    });
  }
}

function gone(cause?: unknown): FerryError {
  return new FerryError('restore.failed', 'The restorer ended', {
    cause,
    remedy: 'its reason is in the log of the agent; the container still runs at its source',
  });
}

function memfd(name: string, content: Buffer, flags: number): OwnedFd {
  // Kernels before 6.3 do not know MFD_EXEC, and do without.
  const first = sys('memfd_create', cString(name), flags);
  const number =
    first === -ERRNO.EINVAL ? call('memfd_create', cString(name), flags & ~MFD_EXEC) : first;
  if (number < 0) throw sysError('memfd_create', -number);
  const fd = new OwnedFd(number);
  writeAll(fd.number, content);
  return fd;
}

function writeAt(fd: number, bytes: Buffer, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    const rest = bytes.subarray(done);
    done += call('pwrite64', fd, rest, rest.length, position + done);
  }
}

function writeAll(fd: number, bytes: Buffer): void {
  for (let at = 0; at < bytes.length; ) {
    at += call('write', fd, bytes.subarray(at), bytes.length - at);
  }
}
