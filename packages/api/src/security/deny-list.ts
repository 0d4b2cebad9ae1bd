import { FerryError } from '@ferry/core';

/** Certificates that were signed and do not count any more. */
export interface DenyList {
  readonly identities: ReadonlySet<string>;
  readonly serials: ReadonlySet<string>;
  readonly fingerprints: ReadonlySet<string>;
}

export const emptyDenyList: DenyList = {
  identities: new Set(),
  serials: new Set(),
  fingerprints: new Set(),
};

/** One entry per line: `ferry://ROLE/NAME` (everything that was ever given to it), a SHA-256 fingerprint, or a serial
 *  number; hexadecimal, with or without colons. What follows a "#" is for people.
 *  @throws FerryError security.invalid  for a line that is none of these: a typing error must not let somebody in */
export function parseDenyList(text: string): DenyList {
  const identities = new Set<string>();
  const serials = new Set<string>();
  const fingerprints = new Set<string>();
  for (const line of text.split('\n')) {
    const entry = line.replace(/#.*/, '').trim();
    const hex = entry.replaceAll(':', '').toLowerCase();
    if (entry === '') continue;
    if (/^ferry:\/\/[a-z]+\/[a-z0-9._-]+$/.test(entry)) identities.add(entry);
    else if (/^[0-9a-f]{64}$/.test(hex)) fingerprints.add(hex);
    else if (/^[0-9a-f]{1,40}$/.test(hex)) serials.add(normalSerial(hex));
    else {
      throw new FerryError('security.invalid', `"${entry.slice(0, 80)}" names no certificate`, {
        remedy: 'write ferry://ROLE/NAME, a SHA-256 fingerprint or a serial number on each line',
      });
    }
  }
  return { identities, serials, fingerprints };
}

/** @param certificate  as node:crypto and node:tls give it */
export function isDenied(
  list: DenyList,
  certificate: { readonly serialNumber: string; readonly fingerprint256: string },
  uri: string,
): boolean {
  const fingerprint = certificate.fingerprint256.replaceAll(':', '').toLowerCase();
  return (
    list.identities.has(uri) ||
    list.fingerprints.has(fingerprint) ||
    list.serials.has(normalSerial(certificate.serialNumber))
  );
}

function normalSerial(hex: string): string {
  return hex.toLowerCase().replace(/^0+(?=.)/, '');
}
