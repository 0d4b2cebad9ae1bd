import type { InetSocket } from '@ferry/image';

export const AF = { inet: 2, inet6: 10 } as const;
const MAPPED = Buffer.from('00000000000000000000ffff', 'hex');

/** struct sockaddr_in or sockaddr_in6. */
export function sockaddr(
  family: number,
  { address, port, scopeId }: { address: Uint8Array; port: number; scopeId: number },
): Buffer {
  const raw = Buffer.alloc(family === AF.inet ? 16 : 28);
  raw.writeUInt16LE(family, 0);
  raw.writeUInt16BE(port, 2);
  raw.set(address, family === AF.inet ? 4 : 8);
  if (family === AF.inet6) raw.writeUInt32LE(scopeId, 24);
  return raw;
}

export function localOf(socket: InetSocket): Buffer {
  const { family, localAddress, localPort, scopeId } = socket;
  return sockaddr(family, { address: localAddress, port: localPort, scopeId });
}

export function remoteOf(socket: InetSocket): Buffer {
  const { family, remoteAddress, remotePort, scopeId } = socket;
  return sockaddr(family, { address: remoteAddress, port: remotePort, scopeId });
}

/** 4 bytes when the address is IPv4 written as IPv6. */
export function plain(address: Uint8Array): Uint8Array {
  const isMapped = address.length === 16 && MAPPED.compare(address, 0, 12) === 0;
  return isMapped ? address.subarray(12) : address;
}

/** `127.0.0.1:80`, `[fe80::1]:80`. */
export function endText(address: Uint8Array, port: number): string {
  const bytes = plain(address);
  if (bytes.length === 4) return `${bytes.join('.')}:${port}`;
  if (bytes.length !== 16) return 'nothing';
  const groups = Array.from({ length: 8 }, (_, i) =>
    ((bytes[i * 2]! << 8) | bytes[i * 2 + 1]!).toString(16),
  );
  const text = groups.join(':').replace(/(^|:)0(:0)+(:|$)/, '::');
  return `[${text}]:${port}`;
}

const KINDS: Record<number, string> = {
  ...{ 1: 'ICMP', 6: 'TCP', 17: 'UDP', 58: 'ICMPv6', 136: 'UDP-Lite', 262: 'MPTCP' },
};

const texts = new WeakMap<InetSocket, string>();

/** `TCP socket 5 (10.0.0.1:80 - 10.0.0.2:1234)`; asked for a few times of each. */
export function inetText(id: number, socket: InetSocket): string {
  let text = texts.get(socket);
  if (text === undefined) {
    text = textOf(id, socket);
    texts.set(socket, text);
  }
  return text;
}

function textOf(id: number, socket: InetSocket): string {
  const { protocol, localAddress, localPort, remoteAddress, remotePort } = socket;
  const kind = KINDS[protocol] ?? `raw (${protocol})`;
  const remote = remotePort === 0 ? '' : ` - ${endText(remoteAddress, remotePort)}`;
  return `${kind} socket ${id} (${endText(localAddress, localPort)}${remote})`;
}
