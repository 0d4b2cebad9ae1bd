import { FerryError } from '@ferry/core';
import { type PageRun, Process, type SharedMemory, type TreeImage, type Vma } from '@ferry/image';
import { emitAdjust, emitUserfault } from './adjust-steps.js';
import { emitControlGroups, emitThreadGroups } from './cgroup-steps.js';
import { CompileContext, type Inherited } from './compile-context.js';
import { type Draft, finishDraft, newDraft } from './draft.js';
import { emitForeground, emitSessionTerminal } from './files/terminal.js';
import { emitIpc } from './ipc-steps.js';
import { PAGE, SERVICE } from './layout.js';
import { keptObjectsOf, type LayoutDifference, layoutDifference } from './layout-difference.js';
import { regionLengthOf } from './link.js';
import {
  buildProtection,
  emitMemory,
  emitNotInheritable,
  emitUnmapAll,
  skeletonProtection,
} from './memory-steps.js';
import { createFiles, emitHear, emitRest, emitSay } from './own-steps.js';
import type { ProgramBuilder } from './program.js';
import { refusing } from './refusing.js';
import { freeRange, takenBy } from './region.js';
import { emitLetGo, emitSegmentGone, emitSegmentKept, isPlaceTaken } from './segment-steps.js';
import { emitContent, emitSharedMemory } from './shared-memory-steps.js';
import {
  CLONE_FILES,
  CLONE_FS,
  emitWaitForNext,
  pack,
  type Skeleton,
  type SkeletonPrograms,
} from './skeleton.js';
import { emitTreeChange } from './tree-change-steps.js';
import { type TreeDifference, treeChanges, treeDifference } from './tree-difference.js';

const FALLOC_KEEP_SIZE_PUNCH_HOLE = 3;

/** Pages that were written into a skeleton and that an image does not have any more. */
export interface VanishedPages {
  /** By PID; runs in ascending order without overlaps. */
  readonly processes: ReadonlyMap<number, readonly PageRun[]>;
  /** By the object's id in the image; `address` is the offset in the object. */
  readonly objects: ReadonlyMap<number, readonly PageRun[]>;
}

export interface NextOptions {
  /** To be emptied, where whoever sends pages does not send zeros for them. */
  readonly vanished?: VanishedPages;
  /** By PID: private pages that come once the tree runs; ascending without overlaps. Until then they are missing, and
   *  the process has a userfaultfd for them (`SkeletonPrograms.userfaults`) from when it has its final layout. */
  readonly later?: ReadonlyMap<number, readonly PageRun[]>;
}

/** Why a skeleton cannot become what an image shows; empty when it can. Then the skeleton is good for nothing and a new
 *  one must be made. Pure. */
export function skeletonFits(image: TreeImage, skeleton: Skeleton): string[] {
  const reasons = [...treeDifference(image, skeleton.image).reasons];
  const ids = new Set(image.processes[0]?.namespaceIds);
  const nested = image.namespaces.filter(({ id }) => !ids.has(id));
  if (nested.length > 0) reasons.push('namespaces are nested in the tree');
  const taken = takenBy(image, skeleton.region);
  if (taken !== undefined) reasons.push(`process ${taken} has mapped where the restorer stands`);
  const places = nextTable(livingOf(image), skeleton.table).length;
  if (places > skeleton.tableRoom) {
    reasons.push(`it needs ${places} places for programs, and there are ${skeleton.tableRoom}`);
  }
  if (sharers(image, 'fsOwnerPid').length > 1) {
    reasons.push('several groups of processes share a working directory each');
  }
  if (sharers(image, 'filesOwnerPid').length > 1) {
    reasons.push('several groups of processes share a table of descriptors each');
  }
  reasons.push(...segmentReasons(image, skeleton.image));
  const zombies = new Set(
    image.processes.filter(({ state }) => state === 'zombie').map(({ pid }) => pid),
  );
  for (const { id, kind } of image.files) {
    const pid = kind?.$case === 'unix' ? (kind.value.peerCredentials?.pid ?? 0) : 0;
    if (zombies.has(pid)) reasons.push(`UNIX socket ${id} tells of process ${pid}, a zombie`);
  }
  return reasons;
}

/** A segment has a number of its own, and gets it only while nobody has its place. */
function segmentReasons(image: TreeImage, before: TreeImage): string[] {
  const kept = keptObjectsOf(image, before);
  const keptBefore = new Set(kept.values());
  const isSegment = ({ sysv }: SharedMemory) => sysv !== undefined;
  const gone = before.sharedMemory.filter((each) => isSegment(each) && !keptBefore.has(each.id));
  return image.sharedMemory
    .filter((each) => isSegment(each) && !kept.has(each.id) && isPlaceTaken(each, gone))
    .map(
      ({ sysv }) => `the place of segment ${sysv!.permissions!.id} is taken by one that is gone`,
    );
}

/** Programs for the processes of a skeleton that change it into the one of a later image, between rounds. It says 'A' and
 *  waits again. Pure.
 *  @throws FerryError dumpbin.skeleton with the reasons of `skeletonFits`; dumpbin.*, image.* */
export function compileRefresh(
  image: TreeImage,
  skeleton: Skeleton,
  options: NextOptions = {},
): { skeleton: Skeleton; programs: SkeletonPrograms } {
  return refusing(() => new NextCompiler(image, skeleton, options).compile('refresh'));
}

/** Programs for the processes of a skeleton that restore what the final image shows: they change layout and tree, say
 *  'A', hear 'P' when the last pages are written, and go on as those of `compileTree`. Pure.
 *  @throws as compileRefresh */
export function compileFinish(
  image: TreeImage,
  skeleton: Skeleton,
  options: NextOptions = {},
): SkeletonPrograms {
  return refusing(() => new NextCompiler(image, skeleton, options).compile('finish').programs);
}

/** One compilation; what all programs of it agree on. */
class NextCompiler {
  readonly #image: TreeImage;
  readonly #skeleton: Skeleton;
  readonly #vanished: VanishedPages | undefined;
  readonly #later: ReadonlyMap<number, readonly PageRun[]>;
  readonly #userfaults = new Map<number, number>();
  readonly #ctx: CompileContext;
  readonly #layout: LayoutDifference;
  readonly #tree: TreeDifference;
  readonly #treeChanges: boolean;
  readonly #sharedPlaces: ReadonlyMap<number, number>;
  readonly #table: readonly number[];
  /** The meeting at which the processes of the skeleton wait. */
  readonly #release: [number, number];

  constructor(image: TreeImage, skeleton: Skeleton, options: NextOptions) {
    const reasons = skeletonFits(image, skeleton);
    if (reasons.length > 0) throw misfit(reasons);
    this.#image = image;
    this.#skeleton = skeleton;
    this.#vanished = options.vanished;
    this.#later = options.later ?? new Map();
    this.#layout = layoutDifference(image, skeleton.image);
    this.#tree = treeDifference(image, skeleton.image);
    this.#treeChanges = treeChanges(this.#tree, skeleton.image);
    this.#sharedPlaces = sharedPlaces(image, skeleton, this.#layout);
    const { serviceBase, passed } = skeleton;
    const inherited: Inherited = { serviceBase, passed, sharedPlaces: this.#sharedPlaces };
    this.#ctx = new CompileContext(image, 'external', inherited);
    this.#release = this.#ctx.meeting('next', this.#earlier().length);
    this.#table = nextTable(this.#ctx.living, skeleton.table);
  }

  compile(mode: 'refresh' | 'finish'): { skeleton: Skeleton; programs: SkeletonPrograms } {
    const { restorer, region, identity, storeLength } = this.#skeleton;
    const before = new Set(this.#earlier().map(({ pid }) => pid));
    const fresh = this.#ctx.living.filter(({ pid }) => !before.has(pid));
    const parts = [...fresh, ...this.#earlier()].map(({ pid }) => this.#begin(pid, mode));
    if (mode === 'finish') this.#emitFiles(parts);
    for (const part of parts) {
      if (part.living) this.#end(part, mode);
      finishDraft(part.draft, this.#ctx);
    }
    const drafts = parts.map(({ draft }) => draft);
    const length = Math.max(...drafts.map(({ program }) => regionLengthOf(program, restorer)));
    if (length > region.length) {
      throw misfit([`a program of ${length} bytes does not fit into the ${region.length} there`]);
    }
    const options = { ctx: this.#ctx, restorer, region, identity };
    const packed = pack(drafts, storeLength, options);
    const alive = new Set(this.#ctx.living.map(({ pid }) => pid));
    const skeleton: Skeleton = {
      ...this.#skeleton,
      image: this.#image,
      serviceBase: this.#ctx.serviceBase,
      sharedPlaces: this.#sharedPlaces,
      table: this.#table.map((pid) => (alive.has(pid) ? pid : 0)),
      passed: this.#ctx.passed,
      storeLength: packed.end,
    };
    const table = { at: 0, bytes: tableOf(this.#table, packed.offsets) };
    const programs = {
      ...packed.programs,
      parts: [...packed.programs.parts, table],
      userfaults: this.#userfaults,
    };
    return { skeleton, programs };
  }

  /** Processes that live in the skeleton. */
  #earlier(): Process[] {
    return livingOf(this.#skeleton.image);
  }

  /** The first part of a process's program, up to the final layout; the whole one of a process that is gone. */
  #begin(pid: number, mode: 'refresh' | 'finish'): Part {
    const process = this.#ctx.living.find((candidate) => candidate.pid === pid);
    const draft = newDraft(process ?? Process.fromPartial({ pid }));
    const b = draft.program;
    const isNew = !this.#earlier().some((candidate) => candidate.pid === pid);
    if (pid === this.#image.rootPid) this.#emitPrelude(b);
    if (isNew) emitUnmapAll(b, this.#skeleton.region);
    else if (this.#treeChanges) {
      emitTreeChange(b, this.#ctx, pid, {
        preliminary: this.#skeleton.image,
        difference: this.#tree,
        place: { kind: 'table', placeOf: (child) => this.#table.indexOf(child) },
        cloneFlags: CLONE_FILES | CLONE_FS,
      });
    }
    const open = process === undefined ? new Set<Vma>() : this.#emitMemory(b, process, mode);
    return { draft, open, living: process !== undefined };
  }

  /** The root's first steps, while the others still wait: everything that concerns the common descriptors. */
  #emitPrelude(b: ProgramBuilder): void {
    const { image, sharedPlaces: before, serviceBase } = this.#skeleton;
    const kept = this.#layout.keptObjects;
    const keptBefore = new Set(kept.values());
    for (const [id, place] of before) {
      if (keptBefore.has(id)) continue;
      const segment = image.sharedMemory.find((object) => object.id === id)?.sysv;
      if (segment !== undefined) emitSegmentGone(b, segment);
      else {
        const fd = serviceBase + SERVICE.objects + place;
        b.sys('close', [fd], `shared memory ${id} is gone`);
      }
    }
    this.#emitMove(b);
    const taken = this.#rootRanges();
    for (const object of this.#image.sharedMemory) {
      const earlier = kept.get(object.id);
      const was = image.sharedMemory.find(({ id }) => id === earlier);
      const scratch = freeRange(taken, object.size + BigInt(PAGE));
      if (was !== undefined) {
        this.#emitKeptObject(b, object, was, scratch);
        emitContent(b, object, this.#ctx, scratch);
      } else {
        emitSharedMemory(b, object, this.#ctx, { scratch });
      }
    }
    b.op('barrier', this.#release, 'let the others go on');
  }

  #rootRanges() {
    const { image, region } = this.#skeleton;
    const root = image.processes.find(({ pid }) => pid === image.rootPid);
    const own = { start: region.start, end: region.start + BigInt(region.length) };
    return [...(root?.mm?.vmas ?? []), own];
  }

  /** Descriptors of the restorer go up where the final image has descriptors of its own at theirs. */
  #emitMove(b: ProgramBuilder): void {
    const from = this.#skeleton.serviceBase;
    const to = this.#ctx.serviceBase;
    if (from === to) return;
    const { error, folder, self, control, stdin, stdout, stderr } = SERVICE;
    const numbers: number[] = [error, folder, self, control, stdin, stdout, stderr];
    for (const id of this.#layout.keptObjects.keys()) {
      if (this.#ctx.sharedMemory(id).kind === 'sysv') continue; // it has no descriptor
      numbers.push(SERVICE.objects + (this.#sharedPlaces.get(id) ?? 0));
    }
    for (const number of numbers.sort((x, y) => y - x)) {
      b.sys('dup3', [from + number, to + number, 0], `the restorer's descriptor ${number} goes up`);
    }
  }

  #emitKeptObject(
    b: ProgramBuilder,
    object: SharedMemory,
    was: SharedMemory,
    scratch: bigint,
  ): void {
    if (object.sysv !== undefined) {
      const vanished = this.#vanished?.objects.get(object.id) ?? [];
      emitSegmentKept(b, object.sysv, was.sysv!, vanished, scratch);
      return;
    }
    const fd = this.#ctx.sharedMemoryFd(object.id);
    const step = `shared memory ${object.id} (${object.name || object.kind})`;
    if (object.size !== was.size) b.sys('ftruncate', [fd, object.size], `${step}: size`);
    if (object.mode !== was.mode) b.sys('fchmod', [fd, object.mode], `${step}: mode`);
    for (const { address, pages } of this.#vanished?.objects.get(object.id) ?? []) {
      const args = [fd, FALLOC_KEEP_SIZE_PUNCH_HOLE, address, pages * 4096n];
      b.sys('fallocate', args, `${step}: empty ${address.toString(16)}`);
    }
  }

  /** @returns mappings that are writable for the pages to come, against their own protection */
  #emitMemory(b: ProgramBuilder, process: Process, next: 'refresh' | 'finish'): ReadonlySet<Vma> {
    const ctx = this.#ctx;
    const { region } = this.#skeleton;
    const before = this.#earlier().find(({ pid }) => pid === process.pid);
    const difference = this.#layout.processes.find(({ pid }) => pid === process.pid)!;
    let open: ReadonlySet<Vma>;
    if (before !== undefined) {
      const vanished = this.#vanished?.processes.get(process.pid) ?? [];
      const later = this.#later.get(process.pid) ?? [];
      open = emitAdjust(b, { process, before, difference, next, vanished, later, region }, ctx);
    } else {
      const protect = next === 'refresh' ? skeletonProtection : buildProtection;
      const protection = protect(process);
      emitMemory(b, process, ctx, { protection });
      open = new Set(process.mm!.vmas.filter((vma) => protection(vma) !== vma.prot));
    }
    const grew = difference.pieces.some((piece) => piece.before === undefined);
    if (grew && (before !== undefined || next === 'refresh')) emitNotInheritable(b, process);
    if ((this.#later.get(process.pid)?.length ?? 0) > 0) {
      const fd = ctx.userfaultFd(process);
      this.#userfaults.set(process.pid, fd);
      emitUserfault(b, fd);
    }
    const meeting = ctx.meeting('adjusted', ctx.living.length);
    b.op('barrier', meeting, 'wait until every process has its final layout');
    if (process.pid === this.#image.rootPid) {
      const { sharedMemory } = this.#image;
      const isLate = ({ id, sysv }: SharedMemory) =>
        sysv !== undefined && !this.#layout.keptObjects.has(id);
      emitLetGo(b, sharedMemory.filter(isLate), this.#image);
    }
    return open;
  }

  /** The root makes the files while the last pages come; what another process must do for it, that one does. */
  #emitFiles(parts: readonly Part[]): void {
    const ctx = this.#ctx;
    const { rootPid } = this.#image;
    const living = parts.filter((part) => part.living).map(({ draft }) => draft);
    const root = living.find(({ process }) => process.pid === rootPid)!;
    const b = root.program;
    emitSay(b, ctx, 'A');
    const from = this.#skeleton.serviceBase;
    if (from !== ctx.serviceBase) {
      b.sys('close_range', [from, ctx.serviceBase - 1, 0], "the restorer's old descriptors");
    }
    emitIpc(b, this.#image.ipc);
    ctx.delegates = new Map(living.map(({ process, program }) => [process.pid, program]));
    createFiles(b, ctx, rootPid);
    ctx.delegates = undefined;
  }

  /** From the final layout on. */
  #end({ draft, open }: Part, mode: 'refresh' | 'finish'): void {
    const { program: b, process } = draft;
    const ctx = this.#ctx;
    const isRoot = process.pid === this.#image.rootPid;
    if (mode === 'refresh') {
      if (isRoot) emitSay(b, ctx, 'A');
      emitWaitForNext(b, ctx, { place: this.#table.indexOf(process.pid), isRoot });
      return;
    }
    b.op('barrier', ctx.meeting('files', ctx.living.length), 'wait until the files are there');
    const shares = (how: 'fsOwnerPid' | 'filesOwnerPid'): boolean =>
      sharers(this.#image, how)[0]?.has(process.pid) ?? false;
    const own = (shares('filesOwnerPid') ? 0 : CLONE_FILES) | (shares('fsOwnerPid') ? 0 : CLONE_FS);
    if (own !== 0) b.sys('unshare', [own], 'descriptors of its own');
    if (!isRoot) emitControlGroups(b, process.controlGroups);
    emitThreadGroups(b, process, ctx);
    emitSessionTerminal(b, process, ctx);
    emitForeground(b, process, ctx);
    if (!isRoot) createFiles(b, ctx, process.pid);
    if (isRoot) emitHear(b, ctx, 'P');
    b.op('barrier', ctx.meeting('pages', ctx.living.length), 'wait for the page contents');
    emitRest(draft, ctx, { open });
  }
}

/** A program in the making. */
interface Part {
  readonly draft: Draft;
  /** Mappings that are writable for the pages to come, against their own protection. */
  readonly open: ReadonlySet<Vma>;
  readonly living: boolean;
}

function misfit(reasons: readonly string[]): FerryError {
  return new FerryError(
    'dumpbin.skeleton',
    `The processes have changed too much for what was prepared: ${reasons.join('; ')}`,
    { remedy: 'make them anew: the whole memory has to be sent again' },
  );
}

/** Processes that share their working directory and umask, or their descriptors, by group. One group can go on with what
 *  a skeleton shares. */
function sharers(image: TreeImage, how: 'fsOwnerPid' | 'filesOwnerPid'): Set<number>[] {
  const groups: Set<number>[] = [];
  for (const process of image.processes) {
    const { pid } = process;
    const owner = process[how];
    if (owner === 0) continue;
    const known = groups.find((group) => group.has(owner));
    if (known === undefined) groups.push(new Set([owner, pid]));
    else known.add(pid);
  }
  return groups;
}

function livingOf(image: TreeImage): Process[] {
  return image.processes.filter((process) => process.state !== 'zombie');
}

/** Objects that were there stay where they stand; new ones take free places. */
function sharedPlaces(
  image: TreeImage,
  skeleton: Skeleton,
  { keptObjects }: LayoutDifference,
): ReadonlyMap<number, number> {
  const places = new Map<number, number>();
  for (const [id, before] of keptObjects) {
    const place = skeleton.sharedPlaces.get(before);
    if (place !== undefined) places.set(id, place);
  }
  const used = new Set(places.values());
  let next = 0;
  for (const { id } of image.sharedMemory) {
    if (places.has(id)) continue;
    while (used.has(next)) next++;
    used.add(next);
    places.set(id, next);
  }
  return places;
}

/** Processes that were there keep their places, also those that end now; new ones take free places, or further ones. */
function nextTable(living: readonly Process[], before: readonly number[]): number[] {
  const table = [...before];
  for (const { pid } of living) {
    if (table.includes(pid)) continue;
    const free = table.indexOf(0);
    table[free < 0 ? table.length : free] = pid;
  }
  return table;
}

/** Where the processes that wait now, and those that they make, find their programs. */
function tableOf(table: readonly number[], offsets: ReadonlyMap<number, number>): Buffer {
  const bytes = Buffer.alloc(table.length * 8);
  table.forEach((pid, i) => {
    bytes.writeBigUInt64LE(BigInt(offsets.get(pid) ?? 0), i * 8);
  });
  return bytes;
}
