import type { FileObject, TreeImage, UnixMessage, UnixSocket, UnixWaiting } from '@ferry/image';

/** A UNIX socket of the image, with the id of its file object. */
export interface UnixNode {
  readonly id: number;
  readonly file: FileObject;
  readonly socket: UnixSocket;
}

/** One connection of stream or packet sockets: both ends, or the only one that still has a descriptor. */
export interface Connection {
  /** The end that called connect(2), as far as that can be told. */
  readonly client: UnixNode | undefined;
  readonly server: UnixNode | undefined;
}

/** Connections that are made through one listening socket, so that the accepted ends carry its name. `listener` is
 *  undefined when nobody has it any more. */
export interface ListenerGroup {
  readonly listener: UnixNode | undefined;
  readonly connections: Connection[];
  /** Clients to be left unaccepted, in order. */
  readonly pending: PendingClient[];
}

/** A client that its server has not accepted yet. */
export interface PendingClient {
  /** Undefined when it has closed its end already. */
  readonly node: UnixNode | undefined;
  readonly more: UnixWaiting | undefined;
}

export const STATE = { established: 1, close: 7, listen: 10 } as const;
export const SOCK = { stream: 1, dgram: 2, seqpacket: 5 } as const;

/** How the UNIX sockets of a tree hang together. Worked out once for an image. */
export interface UnixGraph {
  readonly nodes: readonly UnixNode[];
  readonly byId: ReadonlyMap<number, UnixNode>;
  readonly byInode: ReadonlyMap<bigint, UnixNode>;
  /** Datagram sockets by `datagramKey` of their names. */
  readonly senders: ReadonlyMap<string, UnixNode>;
  /** Datagram sockets that are connected to one, by its inode. */
  readonly datagramClients: ReadonlyMap<bigint, readonly UnixNode[]>;
  /** What clients have sent that were not accepted yet, by their inodes. */
  readonly sentEarly: ReadonlyMap<bigint, readonly UnixMessage[]>;
  /** By the id of every file object that the group makes. */
  readonly groups: ReadonlyMap<number, ListenerGroup>;
}

const graphs = new WeakMap<TreeImage, UnixGraph>();

export function unixGraph(image: TreeImage): UnixGraph {
  let graph = graphs.get(image);
  if (graph === undefined) {
    graph = build(image);
    graphs.set(image, graph);
  }
  return graph;
}

function build(image: TreeImage): UnixGraph {
  const nodes: UnixNode[] = [];
  for (const file of image.files) {
    if (file.kind?.$case === 'unix') nodes.push({ id: file.id, file, socket: file.kind.value });
  }
  const byInode = new Map(nodes.map((node) => [node.socket.inode, node]));
  const groups = new Map<number, ListenerGroup>();
  const byName = listeners(nodes, groups);
  for (const connection of connections(nodes, byInode)) {
    const group = groupFor(connection, byName);
    if (group === undefined) continue;
    const isServer = (node: UnixNode | undefined) =>
      node !== undefined && nameKey(node.socket.type, node.socket.address) === group.key;
    group.connections.push(
      isServer(connection.server) || !isServer(connection.client)
        ? connection
        : { client: connection.server, server: connection.client },
    );
    for (const node of [connection.client, connection.server]) {
      if (node !== undefined) groups.set(node.id, group);
    }
  }
  const sentEarly = new Map<bigint, readonly UnixMessage[]>();
  for (const node of nodes) {
    const group = groups.get(node.id);
    for (const [i, inode] of node.socket.pendingInodes.entries()) {
      const client = inode === 0n ? undefined : byInode.get(inode);
      if (group === undefined || (client === undefined && inode !== 0n)) continue;
      const more = node.socket.waiting[i];
      group.pending.push({ node: client, more });
      if (client === undefined) continue;
      groups.set(client.id, group);
      if (more !== undefined) sentEarly.set(inode, more.messages);
    }
  }
  const byId = new Map(nodes.map((node) => [node.id, node]));
  return { nodes, byId, byInode, groups, sentEarly, ...datagrams(nodes) };
}

type KeyedGroup = ListenerGroup & { readonly key: string };

function nameKey(type: number, address: Uint8Array): string {
  return `${type}:${Buffer.from(address).toString('hex')}`;
}

/** A group for each listening socket; of those of one name the one that still has its file is found by it. */
function listeners(
  nodes: readonly UnixNode[],
  groups: Map<number, ListenerGroup>,
): Map<string, KeyedGroup> {
  const byName = new Map<string, KeyedGroup>();
  for (const node of nodes) {
    if (node.socket.state !== STATE.listen) continue;
    const key = nameKey(node.socket.type, node.socket.address);
    const group = { listener: node, connections: [], pending: [], key };
    groups.set(node.id, group);
    if (!byName.has(key) || node.socket.path?.present) byName.set(key, group);
  }
  // Names that several ends have, without a listener: one was there, and is gone.
  const counts = new Map<string, number>();
  for (const { socket } of nodes) {
    if (!isConnectedStream(socket) || socket.address.length === 0) continue;
    const key = nameKey(socket.type, socket.address);
    counts.set(key, (counts.get(key) ?? 0) + 1);
    if (counts.get(key) === 2 && !byName.has(key)) {
      byName.set(key, { listener: undefined, connections: [], pending: [], key });
    }
  }
  return byName;
}

export function isConnectedStream(socket: UnixSocket): boolean {
  return socket.type !== SOCK.dgram && socket.state === STATE.established;
}

/** Connected ends, each connection once; those that wait to be accepted are none yet. */
function connections(
  nodes: readonly UnixNode[],
  byInode: ReadonlyMap<bigint, UnixNode>,
): Connection[] {
  const found: Connection[] = [];
  for (const node of nodes) {
    const { socket } = node;
    if (!isConnectedStream(socket) || socket.pendingOnInode !== 0n) continue;
    const peer = socket.peerClosed ? undefined : byInode.get(socket.peerInode);
    if (peer !== undefined && peer.socket.inode < socket.inode) continue;
    found.push({ client: node, server: peer });
  }
  return found;
}

/** The group whose name an end has, or whose name its closed peer had. */
function groupFor(
  { client, server }: Connection,
  byName: ReadonlyMap<string, KeyedGroup>,
): KeyedGroup | undefined {
  for (const node of [client, server]) {
    if (node === undefined || node.socket.address.length === 0) continue;
    const group = byName.get(nameKey(node.socket.type, node.socket.address));
    if (group !== undefined) return group;
  }
  const only = client ?? server;
  if (server !== undefined || only === undefined || only.socket.peerAddress.length === 0) {
    return undefined;
  }
  const group = byName.get(nameKey(only.socket.type, only.socket.peerAddress));
  return group?.listener === undefined ? undefined : group;
}

function datagrams(nodes: readonly UnixNode[]): Pick<UnixGraph, 'senders' | 'datagramClients'> {
  const senders = new Map<string, UnixNode>();
  const datagramClients = new Map<bigint, UnixNode[]>();
  for (const node of nodes) {
    const { type, address, peerInode } = node.socket;
    if (type !== SOCK.dgram) continue;
    if (address.length > 0) senders.set(datagramKey(address), node);
    if (peerInode === 0n) continue;
    const clients = datagramClients.get(peerInode) ?? [];
    clients.push(node);
    datagramClients.set(peerInode, clients);
  }
  return { senders, datagramClients };
}

export function datagramKey(address: Uint8Array): string {
  return Buffer.from(address).toString('hex');
}
