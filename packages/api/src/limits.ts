import { FerryError } from '@ferry/core';

const mebi = 1024 * 1024;

/** Bounds of everything that crosses the API. Whoever receives checks them. */
export const limits = {
  /** A control message: a spec, a list of containers. */
  controlMessageBytes: 4 * mebi,
  /** A message of a data stream: one chunk and its framing. */
  dataMessageBytes: 8 * mebi,
  /** The data of one chunk of a file, checkpoint or layer. */
  chunkBytes: mebi,
  /** HTTP/2 window of a channel: 2.5 × bandwidth × round trip needs this much at 1 GB/s and
   *  6 ms. */
  flowControlWindowBytes: 16 * mebi,
  /** An error's detail in the trailing metadata; HTTP/2 peers may refuse header blocks of more
   *  than 16 KiB. */
  errorDetailBytes: 6 * 1024,
  errorTextChars: 1000,
  containersPerNode: 1000,
  nodes: 1000,
  argsPerSpec: 1024,
  specStringChars: 4096,
  specTotalChars: 256 * 1024,
  labelsPerSpec: 64,
  mountsPerSpec: 64,
  pageSizeDefault: 50,
  pageSizeMax: 500,
  drainConcurrencyMax: 32,
  logTailLinesMax: 100_000,
} as const;

const containerName = /^[a-z0-9][a-z0-9_.-]{0,62}$/;
const nodeName = /^[a-z0-9][a-z0-9.-]{0,62}$/;
const identifier = /^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$/;
const hostPort = /^(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})$/;

function invalid(what: string, value: string, rule: string): FerryError {
  const shown = JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value);
  return new FerryError('request.invalid', `${what} ${shown} is not valid`, { remedy: rule });
}

/** @throws FerryError request.invalid */
export function checkContainerName(name: string): string {
  if (containerName.test(name)) return name;
  throw invalid(
    'Container name',
    name,
    'use 1 to 63 of a-z, 0-9, "_", ".", "-", starting with a letter or digit',
  );
}

/** @throws FerryError request.invalid */
export function checkNodeName(name: string): string {
  if (nodeName.test(name)) return name;
  throw invalid(
    'Node name',
    name,
    'use 1 to 63 of a-z, 0-9, ".", "-", starting with a letter or digit',
  );
}

/** Operation, migration, checkpoint and request ids.
 *  @throws FerryError request.invalid */
export function checkId(id: string, what: string): string {
  if (identifier.test(id)) return id;
  throw invalid(what, id, 'use 1 to 80 of A-Z, a-z, 0-9, "_", "-"');
}

/** `HOST:PORT`, IPv6 in brackets.
 *  @throws FerryError request.invalid */
export function checkAddress(address: string): string {
  const match = hostPort.exec(address);
  if (match !== null && Number(match[2]) > 0 && Number(match[2]) < 65536) return address;
  throw invalid('Address', address, 'write HOST:PORT, an IPv6 host in brackets');
}
