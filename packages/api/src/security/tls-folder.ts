import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext, type SecureContext, type SecureContextOptions } from 'node:tls';
import { errorText, FerryError } from '@ferry/core';
import { type DenyList, emptyDenyList, parseDenyList } from './deny-list.js';
import { identityOf, type Role } from './identity.js';

/** What lies in the folder that --tls names. `ferry ca issue` writes such folders; the names are those that Kubernetes
 *  and cert-manager use as well. */
export const tlsFiles = {
  /** Certificates of the authorities whose word counts. */
  ca: 'ca.crt',
  /** Who this program is; absent for a user who has a token instead. */
  certificate: 'tls.crt',
  key: 'tls.key',
  /** Of a controller: what it signs tickets with (Ed25519). */
  ticketCertificate: 'ticket.crt',
  ticketKey: 'ticket.key',
  /** Certificates that do not count any more; see deny-list.ts. */
  denied: 'denied',
} as const;

/** A folder's contents at one moment. */
export interface TlsMaterial {
  readonly ca: Buffer;
  readonly authorities: readonly X509Certificate[];
  readonly certificate: X509Certificate | undefined;
  readonly identity: { readonly role: Role; readonly name: string } | undefined;
  /** What tickets are signed with: ticket.key, or else the key for TLS. */
  readonly ticketSigner:
    | { readonly certificate: X509Certificate; readonly key: KeyObject }
    | undefined;
  readonly denied: DenyList;
  readonly context: SecureContextOptions;
}

/** Files are looked at again after so long. */
const POLL_MS = 2000;

interface Options {
  /** Told when new contents cannot be used; the old ones stay in use. */
  readonly onProblem?: (text: string) => void;
  readonly onReload?: () => void;
  readonly pollMs?: number;
}

/** The certificates that a program goes by. Whoever replaces the files (a new key, another authority beside the old one,
 *  one more line in `denied`) is heard without a restart: new connections use what is there then. */
export class TlsFolder {
  readonly path: string;
  readonly #listeners = new Set<() => void>();
  readonly #timer: NodeJS.Timeout;
  readonly #options: Options;
  #material: TlsMaterial;
  #stamp: string;
  #context: SecureContext | undefined;
  #told = '';

  private constructor(path: string, options: Options) {
    this.path = path;
    this.#options = options;
    this.#stamp = stampOf(path);
    this.#material = readMaterial(path);
    this.#timer = setInterval(() => this.reload(), options.pollMs ?? POLL_MS).unref();
  }

  /** @throws FerryError security.files */
  static open(path: string, options: Options = {}): TlsFolder {
    return new TlsFolder(path, options);
  }

  get current(): TlsMaterial {
    return this.#material;
  }

  /** For a connection that begins now. */
  secureContext(): SecureContext {
    this.#context ??= createSecureContext(this.#material.context);
    return this.#context;
  }

  /** Calls `listener` after each change. @returns ends that */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Looks whether the files have changed; it does so by itself every two seconds. */
  reload(): void {
    const stamp = stampOf(this.path);
    if (stamp === this.#stamp) return;
    try {
      this.#material = readMaterial(this.path);
    } catch (error) {
      // A key that was replaced before its certificate: the next look finds both.
      const text = errorText(error);
      if (text !== this.#told) this.#options.onProblem?.(text);
      this.#told = text;
      return;
    }
    this.#stamp = stamp;
    this.#told = '';
    this.#context = undefined;
    this.#options.onReload?.();
    for (const listener of this.#listeners) listener();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#listeners.clear();
  }
}

function stampOf(path: string): string {
  return Object.values(tlsFiles)
    .map((name) => {
      const found = statSync(join(path, name), { throwIfNoEntry: false });
      return found === undefined ? '-' : `${found.ino}:${found.size}:${found.mtimeMs}`;
    })
    .join(' ');
}

function readMaterial(path: string): TlsMaterial {
  try {
    const ca = readFileSync(join(path, tlsFiles.ca));
    const authorities = certificatesOf(ca.toString());
    if (authorities.length === 0) throw new Error(`${tlsFiles.ca} holds no certificate`);
    const own = readPair(path, { certificate: tlsFiles.certificate, key: tlsFiles.key });
    const ticket = readPair(path, {
      certificate: tlsFiles.ticketCertificate,
      key: tlsFiles.ticketKey,
    });
    const denied = readIfThere(join(path, tlsFiles.denied));
    const pair = own === undefined ? {} : { cert: own.certificatePem, key: own.keyPem };
    const context = { ca, ...pair, minVersion: 'TLSv1.3' } as const;
    createSecureContext(context); // throws here rather than at the first connection
    return {
      ...{ ca, authorities, context },
      certificate: own?.certificate,
      identity: own === undefined ? undefined : identityOf(own.certificate),
      ticketSigner: ticket ?? own,
      denied: denied === undefined ? emptyDenyList : parseDenyList(denied.toString()),
    };
  } catch (cause) {
    throw new FerryError('security.files', `The certificates in ${path} cannot be used`, {
      cause,
      remedy: `put ${tlsFiles.ca}, ${tlsFiles.certificate} and ${tlsFiles.key} there, for example with "ferry ca issue"`,
    });
  }
}

function readPair(path: string, names: { certificate: string; key: string }) {
  const certificatePem = readIfThere(join(path, names.certificate));
  if (certificatePem === undefined) return undefined;
  const keyPem = readFileSync(join(path, names.key));
  const certificate = new X509Certificate(certificatePem);
  const key = createPrivateKey(keyPem);
  if (!certificate.checkPrivateKey(key)) {
    throw new Error(`${names.key} is not the key of ${names.certificate}`);
  }
  return { certificate, key, certificatePem, keyPem };
}

function readIfThere(file: string): Buffer | undefined {
  try {
    return readFileSync(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function certificatesOf(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => new X509Certificate(block));
}
