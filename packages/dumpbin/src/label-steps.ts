import type { Process, Thread } from '@ferry/image';
import type { CompileContext } from './compile-context.js';
import { hasKeptProc, openProc } from './namespaces/pid-spaces.js';
import type { Label, ProgramBuilder, Slot } from './program.js';

/** Labels of AppArmor and SELinux. A label binds what follows it, so each is given as late as it can be:
 *
 *  - AppArmor's by every thread when nothing needs a privilege any more. That is after the tree has got the right to run,
 *    where nothing may fail: so AppArmor is asked beforehand whether it would (`permprofile`).
 *  - SELinux's by every process while it has one thread, as the kernel demands. A container's runtime has given the
 *    container's own before: what is made under another one (sockets, files) would keep that. */

type ProcContext = Pick<CompileContext, 'service'>;

const O_WRONLY = 1;
const O_RDWR = 2;

/** Before anything may hide /proc. */
export function emitKeepProcForLabels(
  b: ProgramBuilder,
  process: Process,
  ctx: CompileContext,
): void {
  const needsIt = process.threads.some(({ labels }) => labels !== undefined);
  if (needsIt && !hasKeptProc(ctx.image)) openProc(b, ctx);
}

/** The SELinux context of a process, while it has one thread. */
export function emitContext(b: ProgramBuilder, process: Process, ctx: ProcContext): void {
  const context = process.threads.find(({ exited }) => !exited)?.labels?.selinux ?? '';
  if (context === '') return;
  const step = `process ${process.pid}: SELinux context ${context}`;
  const [already, slot] = [b.label(), b.slotFor('label')];
  openAttribute(b, ctx, { name: 'current', flags: O_RDWR, step, slot });
  emitCompare(b, slot, `${context}\0`, step, already);
  emitWrite(b, slot, context, step);
  b.place(already);
  b.sys('close', [slot], `${step}: close`);
}

/** What SELinux gives to things that the thread makes next; whether AppArmor will let it have its profile. */
export function emitLabels(b: ProgramBuilder, thread: Thread, ctx: ProcContext): void {
  const { labels, tid } = thread;
  if (labels === undefined) return;
  const { selinuxExec, selinuxFscreate, selinuxKeycreate, selinuxSockcreate } = labels;
  const contexts = {
    exec: selinuxExec,
    fscreate: selinuxFscreate,
    keycreate: selinuxKeycreate,
    sockcreate: selinuxSockcreate,
  };
  for (const [name, context] of Object.entries(contexts)) {
    if (context === '') continue;
    const step = `thread ${tid}: SELinux ${name} context ${context}`;
    const slot = b.slotFor('label');
    openAttribute(b, ctx, { name, flags: O_WRONLY, step, slot });
    emitWrite(b, slot, context, step);
    b.sys('close', [slot], `${step}: close`);
  }
  if (labels.apparmor === '') return;
  const step = profileStep(thread);
  const [already, slot, differs] = [b.label(), b.slotFor('profile'), differsSlot(b)];
  openAttribute(b, ctx, { name: 'apparmor/current', flags: O_RDWR, step, slot });
  b.load(b.words(0), 8, differs, step);
  emitCompare(b, slot, `${labels.apparmor} (`, step, already);
  emitWrite(b, slot, `permprofile ${labels.apparmor}`, `${step}: whether it may have it`);
  b.load(b.words(1), 8, differs, step);
  b.place(already);
}

/** The AppArmor profile; then only what every thread may do may follow. */
export function emitProfile(b: ProgramBuilder, thread: Thread): void {
  const profile = thread.labels?.apparmor ?? '';
  if (profile === '') return;
  const step = profileStep(thread);
  const [already, slot] = [b.label(), b.slotFor('profile')];
  b.op('jump', [differsSlot(b), 0], step, { target: already });
  emitWrite(b, slot, `changeprofile ${profile}`, step);
  b.place(already);
  b.sys('close', [slot], `${step}: close`);
}

function profileStep({ tid, labels }: Thread): string {
  return `thread ${tid}: AppArmor profile ${labels!.apparmor}`;
}

function differsSlot(b: ProgramBuilder): Slot {
  return b.slotFor('profile differs');
}

function openAttribute(
  b: ProgramBuilder,
  ctx: ProcContext,
  { name, flags, step, slot }: { name: string; flags: number; step: string; slot: Slot },
): void {
  const path = b.cstr(`thread-self/attr/${name}`);
  b.sys('openat', [ctx.service('proc'), path, flags, 0], `${step}: open`, { into: slot });
}

function emitWrite(b: ProgramBuilder, fd: Slot, text: string, step: string): void {
  const bytes = Buffer.from(text);
  b.sys('write', [fd, b.bytes(bytes), bytes.length], step);
}

/** Goes on at `same` when the file begins with `text`. Compared in words from its end, the first of which may begin
 *  before the text, in zeros. */
function emitCompare(b: ProgramBuilder, fd: Slot, text: string, step: string, same: Label): void {
  const expected = Buffer.concat([Buffer.alloc(8), Buffer.from(text)]);
  const found = b.reserve(expected.length);
  const length = expected.length - 8;
  b.sys('pread64', [fd, found.plus(8), length, 0], `${step}: what it has`);
  const [differs, word] = [b.label(), b.slotFor('label word')];
  for (let at = expected.length - 8; at > 0; at -= 8) {
    const next = b.label();
    b.load(found.plus(at), 8, word, step);
    b.op('jump', [word, expected.readBigUInt64LE(at)], step, { target: next });
    b.op('jump', [0, 0], step, { target: differs });
    b.place(next);
  }
  b.op('jump', [0, 0], step, { target: same });
  b.place(differs);
}
