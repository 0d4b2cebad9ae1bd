import type { X509Certificate } from 'node:crypto';
import { FerryError } from '@ferry/core';

/** Who may be what. `viewer`, `operator` and `admin` are people and their programs, each allowed all that the one before
 *  it is; `agent` and `controller` are Ferry's own programs. */
export const roles = ['viewer', 'operator', 'admin', 'agent', 'controller'] as const;
export type Role = (typeof roles)[number];

/** Who made a call. `local`: no certificates are in use, and nobody asked for a name. */
export interface Caller {
  readonly role: Role | 'local';
  readonly name: string;
}

export function isRole(text: string): text is Role {
  return (roles as readonly string[]).includes(text);
}

export function callerText({ role, name }: Caller): string {
  return `${role}/${name}`;
}

const identityUri = /^ferry:\/\/([a-z]+)\/([a-z0-9][a-z0-9._-]{0,62})$/;

/** What stands in a certificate as its URI.
 *  @throws FerryError security.invalid */
export function uriOf(identity: { readonly role: Role; readonly name: string }): string {
  const uri = `ferry://${identity.role}/${identity.name}`;
  if (identityUri.test(uri) && isRole(identity.role)) return uri;
  throw new FerryError('security.invalid', `"${identity.name}" is not a name for a certificate`, {
    remedy: 'use 1 to 63 of a-z, 0-9, "_", ".", "-", starting with a letter or digit',
  });
}

/** Whom a certificate names: the one URI `ferry://ROLE/NAME` among its alternative names. Whether it is signed by the
 *  right authority is somebody else's question.
 *  @returns undefined when it names nobody, or more than one */
export function identityOf(certificate: Pick<X509Certificate, 'subjectAltName'>) {
  const found: { role: Role; name: string }[] = [];
  for (const value of alternativeUris(certificate.subjectAltName ?? '')) {
    const match = identityUri.exec(value);
    const [, role = '', name = ''] = match ?? [];
    if (match !== null && isRole(role)) found.push({ role, name });
  }
  return found.length === 1 ? found[0] : undefined;
}

/** The URIs of a list such as `DNS:a, URI:"b, c", URI:d`. Values with odd characters come as JSON strings: what such a
 *  string holds must not be taken for an entry of the list. */
function alternativeUris(list: string): string[] {
  const entry = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y;
  const uris: string[] = [];
  for (let at = 0; at < list.length; at = entry.lastIndex) {
    entry.lastIndex = at;
    const match = entry.exec(list);
    if (match === null) return []; // not a list that OpenSSL writes: trust none of it
    if (match[1] === 'URI' && match[2] !== undefined) uris.push(match[2]);
  }
  return uris;
}
