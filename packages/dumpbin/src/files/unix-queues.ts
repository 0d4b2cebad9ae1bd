import type { UnixMessage, UnixSocket } from '@ferry/image';
import type { Argument, ProgramBuilder } from '../program.js';
import type { EmitContext } from './emit.js';
import { emitRoom } from './socket-options.js';
import {
  datagramKey,
  isConnectedStream,
  SOCK,
  STATE,
  type UnixGraph,
  type UnixNode,
  unixGraph,
} from './unix-graph.js';
import { emitSend } from './unix-messages.js';
import {
  emitBindIfFree,
  emitBindInside,
  emitEnter,
  isReachable,
  nameText,
  unixAddress,
} from './unix-names.js';

const AF_UNIX = 1;
const MSG_DONTWAIT = 0x40;

/** Where the other end of a connection stands for a while when nobody in the tree has it: above all objects. */
export function partnerFd(node: UnixNode, ctx: EmitContext): number {
  return ctx.objectsEnd + (ctx.fdOf(node.id) - ctx.serviceBase);
}

/** Above all partners: for a listening socket that nobody has, while its connections are made. */
export function spareFd(ctx: EmitContext): number {
  return ctx.objectsEnd + (ctx.objectsEnd - ctx.serviceBase);
}

/** Whether a socket, or one that it may get messages through, waits for messages that carry their senders'
 *  credentials: the kernel takes only pids that exist. */
export function isLate(node: UnixNode, ctx: EmitContext): boolean {
  const { byInode, nodes, sentEarly } = unixGraph(ctx.image);
  if (node.socket.type === SOCK.dgram) {
    return nodes.some((other) => other.socket.type === SOCK.dgram && isCredited(other, ctx));
  }
  const peer = byInode.get(node.socket.peerInode);
  const early = sentEarly.get(node.socket.inode) ?? [];
  if (hasCredits(early, ctx)) return true;
  return isCredited(node, ctx) || (peer !== undefined && isCredited(peer, ctx));
}

function isCredited({ socket }: UnixNode, ctx: EmitContext): boolean {
  return hasCredits(socket.receiveQueue, ctx);
}

function hasCredits(messages: readonly UnixMessage[], ctx: EmitContext): boolean {
  return messages.some(
    ({ credentials }) =>
      credentials !== undefined && credentials.pid !== 0 && credentials.pid !== ctx.image.rootPid,
  );
}

function hasPartner({ socket }: UnixNode): boolean {
  return socket.peerClosed && (isConnectedStream(socket) || socket.peerAddress.length === 0);
}

/** Puts into a socket what was waiting to be received: its peer sends it, or whoever had the sender's name. */
export function emitQueues(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const { socket } = node;
  emitEarly(b, node, ctx);
  if (socket.receiveQueue.length === 0 || socket.state === STATE.listen) return;
  const isDatagram = socket.type === SOCK.dgram;
  if (isDatagram && isReachable(socket)) {
    emitDatagrams(b, node, ctx);
    return;
  }
  const peer = unixGraph(ctx.image).byInode.get(socket.peerInode);
  const from = hasPartner(node) ? partnerFd(node, ctx) : peer && ctx.fdOf(peer.id);
  if (from === undefined || (isDatagram && socket.address.length > 0)) return;
  if (peer !== undefined) ctx.once(`unix: room ${peer.id}`);
  emitRoom(b, from, socket.receiveQueue, 'send');
  for (const message of socket.receiveQueue) emitSend(b, message, { from, ctx });
}

/** What a client has sent that nobody has accepted yet. */
function emitEarly(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const messages = unixGraph(ctx.image).sentEarly.get(node.socket.inode) ?? [];
  if (messages.length === 0) return;
  const from = ctx.fdOf(node.id);
  ctx.once(`unix: room ${node.id}`);
  emitRoom(b, from, messages, 'send');
  for (const message of messages) emitSend(b, message, { from, ctx });
}

/** Datagrams to a socket that has a name: from the socket of the tree that has the sender's, or from one that is made
 *  for that. */
export function emitDatagrams(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const { socket } = node;
  if (socket.receiveQueue.length === 0) return;
  const { senders } = unixGraph(ctx.image);
  const to = unixAddress(b, socket.address);
  const directory = socket.path?.present ? socket.path.directory : '';
  if (directory !== '') emitEnter(b, directory);
  const roomy = new Set<number>();
  for (const message of socket.receiveQueue) {
    const sender = senderOf(message, senders);
    if (sender === undefined) {
      emitFromStranger(b, message, { to, directory, isInside: !isReachable(socket), ctx });
      continue;
    }
    const from = ctx.fdOf(sender.id);
    if (!roomy.has(from)) emitRoom(b, from, socket.receiveQueue, 'send');
    roomy.add(from);
    ctx.once(`unix: room ${sender.id}`);
    emitSend(b, message, { from, to, ctx });
  }
}

function senderOf(message: UnixMessage, senders: UnixGraph['senders']): UnixNode | undefined {
  const { sourceAddress } = message;
  return sourceAddress.length === 0 ? undefined : senders.get(datagramKey(sourceAddress));
}

/** A message whose sender is gone, or never had a name. */
function emitFromStranger(
  b: ProgramBuilder,
  message: UnixMessage,
  {
    to,
    directory,
    isInside,
    ctx,
  }: { to: [Argument, number]; directory: string; isInside: boolean; ctx: EmitContext },
): void {
  const name = `sender ${nameText(message.sourceAddress)}`;
  const from = b.slotFor('sender');
  b.sys('socket', [AF_UNIX, SOCK.dgram, 0], `make ${name}`, { into: from });
  if (isInside) emitBindInside(b, from, message.sourceAddress);
  else emitBindIfFree(b, from, message.sourceAddress);
  // Its name may have been bound elsewhere.
  if (directory !== '') emitEnter(b, directory);
  emitRoom(b, from, [message], 'send');
  emitSend(b, message, { from, to, ctx });
  b.sys('close', [from], `close ${name}`);
}

/** Connects a datagram socket to the one it sends to. Outside the tree that is whoever has the name by now, if anybody:
 *  a log daemon, as a rule, which may come and go. */
export function emitDatagramLink(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const { socket } = node;
  if (socket.type !== SOCK.dgram || socket.peerInode + BigInt(socket.peerAddress.length) === 0n) {
    return;
  }
  const peer = unixGraph(ctx.image).byInode.get(socket.peerInode);
  const address = peer?.socket.address ?? socket.peerAddress;
  if (address.length === 0 || !ctx.once(`unix: link ${node.id}`)) return;
  const directory = peer?.socket.path?.present ? peer.socket.path.directory : '';
  if (directory !== '') emitEnter(b, directory);
  const [at, length] = unixAddress(b, address);
  const name = `connect datagram socket ${node.id} to ${nameText(address)}`;
  const connect = () =>
    b.sys('connect', [ctx.fdOf(node.id), at, length], name, {
      expect: peer === undefined ? 'any' : { value: 0 },
    });
  if (!socket.peerClosed) {
    connect();
    return;
  }
  const closed = b.slotFor('sender');
  b.sys('socket', [AF_UNIX, SOCK.dgram, 0], `${name}: the closed peer`, { into: closed });
  emitBindIfFree(b, closed, address, connect);
  b.sys('close', [closed], `${name}: the closed peer`);
}

/** Whether a datagram socket without a name is connected to nothing, and yet something is, or was, connected to it: an end
 *  of socketpair(2) that connect(2) with AF_UNSPEC has cut off. */
export function isCutOff({ socket }: UnixNode, ctx: EmitContext): boolean {
  if (socket.type !== SOCK.dgram || socket.address.length > 0 || socket.peerClosed) return false;
  if (socket.peerInode !== 0n || socket.peerAddress.length > 0) return false;
  return socket.receiveQueue.length > 0 || senderTo(socket, ctx) !== undefined;
}

function senderTo({ inode }: UnixSocket, ctx: EmitContext): UnixNode | undefined {
  return unixGraph(ctx.image).datagramClients.get(inode)?.[0];
}

/** Cuts such an end off, which would empty it (net/unix/af_unix.c: unix_dgram_disconnected): what was sent to it since, or
 *  before its peer was closed, comes after that. */
export function emitCutOff(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  if (!isCutOff(node, ctx)) return;
  const { socket, id } = node;
  const step = `cut off UNIX socket ${id}`;
  const sender = senderTo(socket, ctx);
  const from = sender === undefined ? partnerFd(node, ctx) : ctx.fdOf(sender.id);
  b.sys('connect', [ctx.fdOf(id), b.bytes(Buffer.alloc(2)), 2], step);
  if (sender !== undefined) ctx.once(`unix: room ${sender.id}`);
  if (socket.receiveQueue.length > 0) emitRoom(b, from, socket.receiveQueue, 'send');
  for (const message of socket.receiveQueue) emitSend(b, message, { from, ctx });
  if (sender === undefined) b.sys('close', [from], `${step}: nobody has the other end`);
}

/** Closes the other end of a connection that nobody has: with data unread there, when this end had a reset to tell. */
export function emitClosePartner(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  if (!hasPartner(node)) return;
  const name = `the closed peer of UNIX socket ${node.id}`;
  if (node.socket.peerReset) {
    const byte = b.bytes(Buffer.alloc(1));
    b.sys('sendto', [ctx.fdOf(node.id), byte, 1, MSG_DONTWAIT, 0, 0], `${name}: unread data`);
  }
  b.sys('close', [partnerFd(node, ctx)], `close ${name}`);
}
