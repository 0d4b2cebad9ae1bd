import type { Namespace } from '@ferry/image';
import { emitControlGroups } from '../cgroup-steps.js';
import type { CompileContext } from '../compile-context.js';
import { emitOuterDevices } from '../files/covered.js';
import type { DataRef, Label, ProgramBuilder } from '../program.js';
import { emitOpenDumps } from '../tree-steps.js';
import { clocks } from './clocks.js';
import { CLONE } from './clone-flags.js';
import { emitContent } from './content.js';
import { emitTun, parseLinks } from './links.js';
import {
  emitCoveredApart,
  emitMounts,
  emitOuterMounts,
  hasCovered,
  isInNewUser,
} from './mounts.js';
import { emitHelper, emitNested, nestedNamespaces } from './nested.js';
import { emitSocket } from './netlink.js';
import { emitTunDevice } from './network.js';
import { emitMapped, emitOpenedOutside, emitOuterGroups } from './user-space.js';

/** What the root makes before anything else: its own namespaces, filled. Steps before `enter` run outside. */
export function emitRootNamespaces(b: ProgramBuilder, ctx: CompileContext): DataRef | undefined {
  ctx.networksMade.clear(); // programs are written twice: to be measured, then to be used
  const namespaces = rootNamespaces(ctx);
  if (namespaces.length === 0) {
    const { controlGroups, innerControlGroups } = ctx.process(ctx.image.rootPid);
    emitControlGroups(b, controlGroups.length > 0 ? controlGroups : innerControlGroups);
    if (nestedNamespaces(ctx).length > 0) {
      emitOpenProc(b, ctx);
      emitNested(b, ctx);
    }
    return undefined;
  }
  const mount = namespaces.find(({ type }) => type === 'mnt');
  const proc = ctx.namespaceFd('proc');
  emitOpenProc(b, ctx);
  if (mount !== undefined) {
    emitOuterMounts(b, mount, ctx);
    emitOuterDevices(b, ctx);
    if (hasCovered(mount) && isInNewUser(mount, ctx)) {
      emitHelper(b, 'uncover mounts', () => emitCoveredApart(b, mount, ctx));
    }
  }
  const joined = namespaces.some(
    ({ content }) => content?.$case === 'net' && content.value.outerLinks.length > 0,
  );
  if (joined) emitOuterNetwork(b, ctx);
  emitOpenDumps(b, ctx);
  emitOuterGroups(b, ctx);
  b.op('enter', [], 'enter namespaces of its own');
  emitControlGroups(b, ctx.process(ctx.image.rootPid).controlGroups);
  // The group that a process is in when it makes a control group namespace is the root there.
  if (namespaces.some(({ type }) => type === 'cgroup')) {
    b.sys('unshare', [CLONE.cgroup!], 'control group namespace');
  }
  for (const namespace of namespaces) emitContent(b, namespace, ctx, ctx.namespaceFd('network'));
  const mounted = (): void => {
    if (mount !== undefined) emitMounts(b, mount, ctx);
  };
  if (ctx.rootUserNamespace === undefined) mounted();
  else emitMapped(b, ctx, mounted);
  emitNested(b, ctx);
  b.sys('close', [proc], 'close the outer /proc');
  if (joined) {
    b.sys('close', [ctx.namespaceFd('network')], 'close the outer network');
    b.sys('close', [ctx.namespaceFd('outerNetlink')], 'close the outer netlink socket');
  }
  const [given, ready] = [b.label(), b.label()];
  b.op('jump', [0, 0], 'its namespaces stand', { target: ready });
  b.place(given);
  emitOpenDumps(b, ctx);
  emitControlGroups(b, ctx.process(ctx.image.rootPid).innerControlGroups);
  emitGivenTuns(b, ctx);
  emitOpenedOutside(b, ctx);
  b.place(ready);
  return b.bytes(header(namespaces, given, ctx));
}

/** Tun and tap devices of descriptors, where somebody else has made the network: they persist until their queues are there,
 *  as those do that come with a carried network. */
function emitGivenTuns(b: ProgramBuilder, ctx: CompileContext): void {
  const done = new Set<string>();
  for (const { kind, networkNamespaceId } of ctx.image.files) {
    if (kind?.$case !== 'tun' || kind.value.link.length === 0 || networkNamespaceId !== 0) continue;
    const [link] = parseLinks([kind.value.link]);
    if (done.has(link!.name)) continue;
    done.add(link!.name);
    emitTun(b, link!, kind.value.path);
    emitTunDevice(b, kind.value);
  }
}

function emitOpenProc(b: ProgramBuilder, ctx: CompileContext): void {
  const open = b.slotFor('outer');
  b.sys('open', [b.cstr('/proc'), O_PATH_DIRECTORY, 0], 'open /proc', { into: open });
  b.moveFd(open, ctx.namespaceFd('proc'), '/proc');
}

/** Ways back into the network outside, for veth pairs that lead there. */
function emitOuterNetwork(b: ProgramBuilder, ctx: CompileContext): void {
  const slot = b.slotFor('outer');
  b.sys('open', [b.cstr('/proc/self/ns/net'), 0, 0], 'open the outer network', { into: slot });
  b.moveFd(slot, ctx.namespaceFd('network'), 'outer network');
  b.moveFd(emitSocket(b, 0), ctx.namespaceFd('outerNetlink'), 'outer netlink socket');
}

const O_PATH_DIRECTORY = 0o10200000;

/** The carried namespaces that the root is born in. */
export function rootNamespaces(ctx: CompileContext): Namespace[] {
  const ids = new Set(ctx.process(ctx.image.rootPid).namespaceIds);
  return ctx.image.namespaces.filter(({ id }) => ids.has(id));
}

/** struct plan_namespaces (plan.h) and the texts behind it. */
function header(namespaces: readonly Namespace[], given: Label, ctx: CompileContext): Buffer {
  const fixed = Buffer.alloc(64);
  const texts: Buffer[] = [];
  const flags = namespaces
    .filter(({ type }) => type !== 'cgroup')
    .reduce((all, { type }) => all | (CLONE[type] ?? 0), 0);
  fixed.writeUInt32LE(flags, 0);
  fixed.writeUInt32LE(given.index, 4);
  fixed.writeUInt32LE(ctx.process(ctx.image.rootPid).hostPid, 8);
  let at = fixed.length;
  const put = (text: Buffer, field: number): void => {
    const room = (8 - (at % 8)) % 8;
    texts.push(Buffer.alloc(room));
    at += room;
    fixed.writeBigUInt64LE(BigInt(at), field);
    fixed.writeBigUInt64LE(BigInt(text.length), field + 8);
    texts.push(text);
    at += text.length;
  };
  for (const { content } of namespaces) {
    if (content?.$case === 'user') {
      fixed.writeUInt32LE(content.value.denySetgroups ? 1 : 0, 12);
      put(Buffer.from(content.value.uidMap), 16);
      put(Buffer.from(content.value.gidMap), 32);
    }
    if (content?.$case === 'time') {
      put(clocks(content.value, ctx.image), 48);
    }
  }
  return Buffer.concat([fixed, ...texts]);
}
