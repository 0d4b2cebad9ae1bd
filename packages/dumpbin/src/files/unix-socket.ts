import type { UnixCredentials, UnixSocket } from '@ferry/image';
import type { Argument, ProgramBuilder, Slot } from '../program.js';
import { emitPair } from './common.js';
import type { EmitContext, FileEmitter } from './emit.js';
import {
  emitBuffers,
  emitOption,
  emitPacketFilter,
  emitRoom,
  emitSocketFlags,
  isFilterLock,
} from './socket-options.js';
import {
  type Connection,
  datagramKey,
  isConnectedStream,
  type ListenerGroup,
  type PendingClient,
  SOCK,
  STATE,
  type UnixNode,
  unixGraph,
} from './unix-graph.js';
import { emitSend } from './unix-messages.js';
import {
  emitBind,
  emitBindIfFree,
  emitEnter,
  isReachable,
  nameText,
  unixAddress,
} from './unix-names.js';
import { asPeer } from './unix-peer.js';
import {
  emitClosePartner,
  emitCutOff,
  emitDatagramLink,
  emitDatagrams,
  emitQueues,
  isCutOff,
  isLate,
  partnerFd,
  spareFd,
} from './unix-queues.js';

const AF_UNIX = 1;
const SHUT_RD = 0;
const SHUT_WR = 1;
const SHUT_RDWR = 2;
const RECEIVE_SHUTDOWN = 1;
const BOTH_SHUTDOWN = 3;

/** UNIX sockets. They are made together with what they are connected to; then queues are filled by their peers; what
 *  would hinder that (shut down ends, SO_PASSCRED) is set last. */
export const unixSocketEmitter: FileEmitter = {
  create(b, file, ctx) {
    const node = unixGraph(ctx.image).byId.get(file.id);
    if (node !== undefined) emitNode(b, node, ctx);
  },
  connect(b, _file, ctx) {
    if (ctx.once('unix: connect')) emitContents(b, ctx, { late: false });
  },
  resume(b, _file, ctx) {
    if (ctx.once('unix: resume')) emitContents(b, ctx, { late: true });
  },
};

/** Queues, then what would have hindered filling them. Messages with their senders' credentials come when those
 *  processes exist, and with them all that belongs to the sockets they are sent through. */
function emitContents(b: ProgramBuilder, ctx: EmitContext, { late }: { late: boolean }): void {
  const nodes = unixGraph(ctx.image).nodes.filter((node) => isLate(node, ctx) === late);
  for (const node of nodes) emitQueues(b, node, ctx);
  for (const node of nodes) emitCutOff(b, node, ctx);
  for (const node of nodes) emitDatagramLink(b, node, ctx);
  for (const node of nodes) emitClosePartner(b, node, ctx);
  for (const node of nodes) emitShutdown(b, node, ctx);
  for (const node of nodes) emitSettings(b, node, ctx);
}

function textOf({ id, socket }: UnixNode): string {
  return `UNIX socket ${id} (${nameText(socket.address)})`;
}

function emitNode(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  if (!ctx.once(`unix: ${node.id}`)) return;
  const { groups, byInode } = unixGraph(ctx.image);
  const group = groups.get(node.id);
  if (group !== undefined) {
    emitGroup(b, group, ctx);
    return;
  }
  const { socket } = node;
  const peer = byInode.get(socket.peerInode);
  const isPairedDatagram =
    socket.type === SOCK.dgram &&
    peer !== undefined &&
    (peer.socket.address.length === 0 || isUnnamedPeerOf(node, peer));
  const sender = unixGraph(ctx.image).datagramClients.get(socket.inode)?.[0];
  if (isCutOff(node, ctx) && sender !== undefined) {
    emitNode(b, sender, ctx); // makes both
    return;
  }
  if (isConnectedStream(socket) || isPairedDatagram || isOrphan(node) || isCutOff(node, ctx)) {
    emitSocketPair(b, { client: node, server: socket.peerClosed ? undefined : peer }, ctx);
    return;
  }
  emitSingle(b, node, ctx);
}

/** `node` has no name, and yet `peer` is connected to it: they came from socketpair(2). */
function isUnnamedPeerOf(node: UnixNode, peer: UnixNode): boolean {
  return node.socket.address.length === 0 && peer.socket.peerInode === node.socket.inode;
}

/** A datagram socket whose peer is closed and had no name. */
function isOrphan({ socket }: UnixNode): boolean {
  return socket.peerClosed && socket.peerAddress.length === 0;
}

function emitSocket(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const slot = b.slotFor('socket');
  b.sys('socket', [AF_UNIX, node.socket.type, 0], `make ${textOf(node)}`, { into: slot });
  b.moveFd(slot, ctx.fdOf(node.id), textOf(node));
}

function emitSingle(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const { socket } = node;
  const isLost = socket.address.length > 0 && !isReachable(socket);
  const { senders, datagramClients } = unixGraph(ctx.image);
  const clients = datagramClients.get(socket.inode) ?? [];
  if (isLost) {
    // Who sends to it, or is connected to it, can reach it only while its path exists.
    const names = socket.receiveQueue.map(({ sourceAddress }) => datagramKey(sourceAddress));
    for (const other of [...names.map((name) => senders.get(name)), ...clients]) {
      if (other !== undefined && other !== node) emitNode(b, other, ctx);
    }
  }
  emitSocket(b, node, ctx);
  emitBind(b, ctx.fdOf(node.id), socket, () => {
    if (!isLost) return;
    emitDatagrams(b, node, ctx);
    for (const client of clients) emitDatagramLink(b, client, ctx);
  });
}

/** socketpair(2), for whatever did not come from a listening socket that can be told. */
function emitSocketPair(b: ProgramBuilder, { client, server }: Connection, ctx: EmitContext): void {
  const node = (client ?? server)!;
  const name = textOf(node);
  const numbers = [client, server].map((end) =>
    end === undefined ? partnerFd(node, ctx) : ctx.fdOf(end.id),
  );
  asPeer(b, node.socket.peerCredentials, { name, ctx }, (peer) => {
    const pair = emitPair(peer, name, (at) => {
      peer.sys('socketpair', [AF_UNIX, node.socket.type, 0, at], `${name}: make the pair`);
    });
    numbers.forEach((to, i) => {
      peer.moveFd(pair[i]!, to, name);
    });
  });
  for (const end of [client, server]) {
    if (end === undefined) continue;
    ctx.once(`unix: ${end.id}`);
    const to = ctx.fdOf(end.id);
    if (end.socket.type === SOCK.dgram) emitBind(b, to, end.socket);
    else emitBindIfFree(b, to, end.socket.address);
  }
}

/** A listening socket and everybody who is, or wants to be, connected through it. */
function emitGroup(b: ProgramBuilder, group: ListenerGroup, ctx: EmitContext): void {
  const { listener, connections, pending } = group;
  for (const { client, server } of connections) {
    if (server !== undefined) ctx.once(`unix: ${server.id}`);
    const one = (client ?? server)!;
    if (client !== undefined) emitClient(b, client, ctx);
    else emitPhantomClient(b, one, ctx);
  }
  for (const { node } of pending) if (node !== undefined) emitClient(b, node, ctx);
  const first = connections[0];
  const model = listener ?? (first?.server ?? first?.client)!;
  const name = `listening ${textOf(model)}`;
  const slot = b.slotFor('listener');
  b.sys('socket', [AF_UNIX, model.socket.type, 0], `make ${name}`, { into: slot });
  const at = listener === undefined ? spareFd(ctx) : ctx.fdOf(listener.id);
  if (listener !== undefined) ctx.once(`unix: ${listener.id}`);
  b.moveFd(slot, at, name);
  const named = listener?.socket ?? { address: model.socket.address, path: undefined };
  const backlog = Math.max(listener?.socket.backlog ?? 0, 1);
  emitBind(b, at, named, () => {
    const credentials = first?.client?.socket.peerCredentials ?? listener?.socket.peerCredentials;
    asPeer(b, credentials, { name, ctx }, (peer) => {
      peer.sys('listen', [at, backlog], `listen on ${name}`);
    });
    const directory = named.path?.present ? named.path.directory : '';
    if (directory !== '') emitEnter(b, directory);
    for (const connection of connections) emitConnection(b, connection, { at, named, ctx });
    for (const client of pending) {
      emitPending(b, client, { name, listener: model.socket, ctx });
    }
    if (listener?.socket.backlog === 0) b.sys('listen', [at, 0], `backlog of ${name}`);
  });
  if (listener === undefined) b.sys('close', [at], `${name}: nobody has it`);
}

function emitClient(b: ProgramBuilder, client: UnixNode, ctx: EmitContext): void {
  ctx.once(`unix: ${client.id}`);
  emitSocket(b, client, ctx);
  emitBind(b, ctx.fdOf(client.id), client.socket);
}

function emitPhantomClient(b: ProgramBuilder, server: UnixNode, ctx: EmitContext): void {
  const slot = b.slotFor('socket');
  const name = `the closed peer of ${textOf(server)}`;
  b.sys('socket', [AF_UNIX, server.socket.type, 0], `make ${name}`, { into: slot });
  b.moveFd(slot, partnerFd(server, ctx), name);
  emitBindIfFree(b, partnerFd(server, ctx), server.socket.peerAddress);
}

function emitConnect(
  b: ProgramBuilder,
  node: UnixNode,
  options: { fd: number; address: Uint8Array; ctx: EmitContext; credentials?: UnixCredentials },
): void {
  const { fd, address, ctx, credentials } = options;
  const name = textOf(node);
  asPeer(b, credentials, { name, ctx }, (peer) => {
    const [at, length] = unixAddress(peer, address);
    peer.sys('connect', [fd, at, length], `connect ${name} to ${nameText(address)}`);
  });
}

function emitConnection(
  b: ProgramBuilder,
  { client, server }: Connection,
  { at, named, ctx }: { at: Argument; named: { address: Uint8Array }; ctx: EmitContext },
): void {
  const node = (client ?? server)!;
  const from = client === undefined ? partnerFd(node, ctx) : ctx.fdOf(client.id);
  const credentials = server?.socket.peerCredentials;
  const peer = credentials === undefined ? {} : { credentials };
  emitConnect(b, node, { fd: from, address: named.address, ctx, ...peer });
  const accepted: Slot = b.slotFor('accepted');
  b.sys('accept4', [at, 0, 0, 0], `accept ${textOf(node)}`, { into: accepted });
  const to = server === undefined ? partnerFd(node, ctx) : ctx.fdOf(server.id);
  b.moveFd(accepted, to, `accept ${textOf(node)}`);
}

/** A connection that is left for the server to accept. */
function emitPending(
  b: ProgramBuilder,
  { node, more }: PendingClient,
  { name, listener, ctx }: { name: string; listener: UnixSocket; ctx: EmitContext },
): void {
  const { address, type } = listener;
  const credentials = more?.credentials;
  if (node !== undefined) {
    const peer = credentials === undefined ? {} : { credentials };
    emitConnect(b, node, { fd: ctx.fdOf(node.id), address, ctx, ...peer });
    return;
  }
  const step = `a client of ${name} that has closed its end`;
  const messages = more?.messages ?? [];
  asPeer(b, credentials, { name: step, ctx }, (client) => {
    const from = client.slotFor('client');
    client.sys('socket', [AF_UNIX, type, 0], `make ${step}`, { into: from });
    emitBindIfFree(client, from, more?.clientAddress ?? new Uint8Array());
    const [at, length] = unixAddress(client, address);
    client.sys('connect', [from, at, length], `connect ${step}`);
    if (messages.length > 0) emitRoom(client, from, messages, 'send');
    for (const message of messages) emitSend(client, message, { from, ctx });
    client.sys('close', [from], `close ${step}`);
  });
}

function emitShutdown(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const { shutdown, peerClosed, type, state } = node.socket;
  if (shutdown === 0 || state === STATE.listen || (peerClosed && type !== SOCK.dgram)) return;
  const how =
    shutdown === BOTH_SHUTDOWN ? SHUT_RDWR : shutdown === RECEIVE_SHUTDOWN ? SHUT_RD : SHUT_WR;
  b.sys('shutdown', [ctx.fdOf(node.id), how], `shut down ${textOf(node)}`);
}

function emitSettings(b: ProgramBuilder, node: UnixNode, ctx: EmitContext): void {
  const { socket, file, id } = node;
  const fd = ctx.fdOf(id);
  const name = textOf(node);
  for (const option of socket.options) if (!isFilterLock(option)) emitOption(b, fd, option, name);
  emitBuffers(b, fd, socket.buffers, { name, all: !ctx.once(`unix: room ${id}`) });
  emitPacketFilter(b, fd, socket.packetFilter, name);
  for (const option of socket.options.filter(isFilterLock)) emitOption(b, fd, option, name);
  emitSocketFlags(b, file, fd);
}
