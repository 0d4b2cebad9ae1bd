import { X509Certificate } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import { createAuthority, type IssueOptions, issue, type KeyPair } from './authority.js';
import { identityOf } from './identity.js';
import { tlsFiles } from './tls-folder.js';

/** The authority's own folder: the key stays there and goes to no host. */
export const authorityFiles = { certificate: 'ca.crt', key: 'ca.key' } as const;

/** Makes a certificate authority in `folder`.
 *  @throws FerryError security.exists  rather than make what was issued so far worthless */
export function initAuthority(folder: string, options: { name: string; days: number }): void {
  if (existsSync(join(folder, authorityFiles.key))) {
    throw new FerryError('security.exists', `${folder} holds a certificate authority already`, {
      remedy: 'issue certificates with it, or name another folder',
    });
  }
  const { certificate, key } = createAuthority(options);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  write(join(folder, authorityFiles.key), key, 0o600);
  write(join(folder, authorityFiles.certificate), certificate, 0o644);
}

/** @throws FerryError security.files */
export function readAuthority(folder: string): KeyPair {
  try {
    return {
      certificate: readFileSync(join(folder, authorityFiles.certificate), 'utf8'),
      key: readFileSync(join(folder, authorityFiles.key), 'utf8'),
    };
  } catch (cause) {
    throw new FerryError('security.files', `There is no certificate authority in ${folder}`, {
      cause,
      remedy: `make one with "ferry ca init ${folder}"`,
    });
  }
}

/** Writes what --tls takes into `folder`: a new key, its certificate, the authority's certificate; for a controller also
 *  the key that signs tickets. A program that uses the folder goes over to the new ones by itself.
 *  @throws FerryError security.invalid */
export function issueFolder(folder: string, authority: KeyPair, options: IssueOptions): void {
  const pair = issue(authority, options);
  const ticket =
    options.role === 'controller' ? issue(authority, { ...options, key: 'ed25519' }) : undefined;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  write(join(folder, tlsFiles.key), pair.key, 0o600);
  write(join(folder, tlsFiles.certificate), pair.certificate, 0o644);
  if (ticket !== undefined) {
    write(join(folder, tlsFiles.ticketKey), ticket.key, 0o600);
    write(join(folder, tlsFiles.ticketCertificate), ticket.certificate, 0o644);
  }
  const known = readIfThere(join(folder, tlsFiles.ca));
  // An authority that is on its way out stays beside the new one until somebody takes it away.
  if (!known.includes(authority.certificate.trim())) {
    write(join(folder, tlsFiles.ca), `${authority.certificate}${known}`, 0o644);
  }
}

/** Whom the certificate in a folder is for, with its host names, and until when.
 *  @throws FerryError security.files */
export function readIssued(folder: string) {
  try {
    const certificate = new X509Certificate(readFileSync(join(folder, tlsFiles.certificate)));
    const identity = identityOf(certificate);
    if (identity === undefined) throw new Error('The certificate names nobody');
    const names = certificate.subjectAltName ?? '';
    const hosts = [...names.matchAll(/(?:DNS|IP Address):([^,\s]+)/g)].map(
      ([, host]) => host ?? '',
    );
    const days = (Date.parse(certificate.validTo) - Date.parse(certificate.validFrom)) / 86_400_000;
    return { ...identity, hosts, days, until: new Date(certificate.validTo), certificate };
  } catch (cause) {
    throw new FerryError('security.files', `There is no certificate to renew in ${folder}`, {
      cause,
      remedy: 'issue one with "ferry ca issue"',
    });
  }
}

function readIfThere(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8') : '';
}

/** In one step, so that a reader finds the old content or the new. */
function write(file: string, text: string, mode: number): void {
  const next = `${file}.new-${process.pid}`;
  const fd = openSync(next, 'wx', mode);
  try {
    writeSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(next, file);
}
