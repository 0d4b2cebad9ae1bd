import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  X509Certificate,
} from 'node:crypto';
import { isIP } from 'node:net';
import { FerryError } from '@ferry/core';
import * as der from './der.js';
import { type Role, uriOf } from './identity.js';

/** A key and its certificate, PEM. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

export interface IssueOptions {
  readonly role: Role;
  readonly name: string;
  /** Host names and addresses at which it serves; Ferry itself goes by role and name. */
  readonly hosts?: readonly string[];
  readonly days: number;
  /** `ed25519` signs tickets; not every gRPC library takes such a key for TLS, so that is `ec`. */
  readonly key?: 'ec' | 'ed25519';
  readonly now?: number;
}

const DAY_MS = 24 * 3600 * 1000;
/** Hosts' clocks may differ by so much. */
const SKEW_MS = 5 * 60 * 1000;

const oid = {
  commonName: '2.5.4.3',
  ecdsaSha256: '1.2.840.10045.4.3.2',
  subjectKeyId: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyId: '2.5.29.35',
  extKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const;

/** A new certificate authority that signs itself: P-256, no further authority below it. */
export function createAuthority(options: { name: string; days: number; now?: number }): KeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const now = options.now ?? Date.now();
  const keyId = keyIdOf(publicKey);
  const certificate = certify({
    subject: options.name,
    issuer: options.name,
    publicKey,
    signingKey: privateKey,
    from: now - SKEW_MS,
    until: now + options.days * DAY_MS,
    extensions: [
      extension(oid.basicConstraints, der.sequence(der.boolean(true), der.unsigned(Buffer.of(0)))),
      extension(oid.keyUsage, der.bitString(Buffer.of(0b0000_0110), 1)), // keyCertSign, cRLSign
      plainExtension(oid.subjectKeyId, der.octetString(keyId)),
    ],
  });
  return { certificate, key: pemOf(privateKey) };
}

/** A new key and a certificate that says whose it is.
 *  @throws FerryError security.invalid */
export function issue(authority: KeyPair, options: IssueOptions): KeyPair {
  const signer = readAuthority(authority);
  const { privateKey, publicKey } =
    options.key === 'ed25519'
      ? generateKeyPairSync('ed25519')
      : generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const now = options.now ?? Date.now();
  const until = Math.min(now + options.days * DAY_MS, Date.parse(signer.certificate.validTo));
  const names = [
    der.implicit(6, Buffer.from(uriOf(options))),
    ...(options.hosts ?? []).map(generalName),
  ];
  const usages = [oid.serverAuth, oid.clientAuth].map(der.objectId);
  const certificate = certify({
    subject: options.name,
    issuer: commonNameOf(signer.certificate),
    publicKey,
    signingKey: signer.key,
    from: now - SKEW_MS,
    until,
    extensions: [
      extension(oid.basicConstraints, der.sequence()),
      extension(oid.keyUsage, der.bitString(Buffer.of(0b1000_0000), 7)), // digitalSignature
      plainExtension(oid.extKeyUsage, der.sequence(...usages)),
      plainExtension(oid.subjectAltName, der.sequence(...names)),
      plainExtension(oid.subjectKeyId, der.octetString(keyIdOf(publicKey))),
      plainExtension(
        oid.authorityKeyId,
        der.sequence(der.implicit(0, keyIdOf(createPublicKey(signer.key)))),
      ),
    ],
  });
  return { certificate, key: pemOf(privateKey) };
}

function readAuthority({ certificate: pem, key: keyPem }: KeyPair) {
  try {
    const certificate = new X509Certificate(pem);
    const key = createPrivateKey(keyPem);
    if (!certificate.checkPrivateKey(key)) throw new Error('The key is not that of ca.crt');
    if (!certificate.ca) throw new Error('It is not an authority');
    if (key.asymmetricKeyType !== 'ec') throw new Error('Its key is not of the kind P-256');
    commonNameOf(certificate);
    return { certificate, key };
  } catch (cause) {
    throw new FerryError('security.invalid', 'The certificate authority cannot be used', {
      cause,
      remedy: 'give the folder that "ferry ca init" made',
    });
  }
}

/** Ours have nothing but a common name as their subject. */
function commonNameOf(certificate: X509Certificate): string {
  const name = /^CN=([A-Za-z0-9 ._-]+)$/.exec(certificate.subject)?.[1];
  if (name === undefined) throw new Error(`Its subject is ${JSON.stringify(certificate.subject)}`);
  return name;
}

interface Contents {
  readonly subject: string;
  readonly issuer: string;
  readonly publicKey: KeyObject;
  readonly signingKey: KeyObject;
  readonly from: number;
  readonly until: number;
  readonly extensions: readonly Buffer[];
}

/** RFC 5280, section 4.1; signed with ECDSA and SHA-256. */
function certify(contents: Contents): string {
  const algorithm = der.sequence(der.objectId(oid.ecdsaSha256));
  const body = der.sequence(
    der.explicit(0, der.unsigned(Buffer.of(2))), // v3
    der.unsigned(randomBytes(16)),
    algorithm,
    nameOf(contents.issuer),
    der.sequence(der.time(contents.from), der.time(contents.until)),
    nameOf(contents.subject),
    contents.publicKey.export({ type: 'spki', format: 'der' }),
    der.explicit(3, der.sequence(...contents.extensions)),
  );
  const signature = sign('sha256', body, contents.signingKey);
  const bytes = der.sequence(body, algorithm, der.bitString(signature));
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

function nameOf(commonName: string): Buffer {
  const attribute = der.sequence(der.objectId(oid.commonName), der.utf8String(commonName));
  return der.sequence(der.set(attribute));
}

/** One that whoever does not know it must not ignore. */
function extension(id: string, value: Buffer): Buffer {
  return der.sequence(der.objectId(id), der.boolean(true), der.octetString(value));
}

function plainExtension(id: string, value: Buffer): Buffer {
  return der.sequence(der.objectId(id), der.octetString(value));
}

/** iPAddress or dNSName. @throws FerryError security.invalid */
function generalName(host: string): Buffer {
  if (isIP(host) === 4) return der.implicit(7, Buffer.from(host.split('.').map(Number)));
  if (/^[A-Za-z0-9*][A-Za-z0-9.*-]{0,252}$/.test(host)) return der.implicit(2, Buffer.from(host));
  throw new FerryError('security.invalid', `"${host}" is not a host name or IPv4 address`, {
    remedy: 'give names such as node1.example.org, or addresses such as 10.0.0.1',
  });
}

/** RFC 5280, section 4.2.1.2, method (1), over the whole key record. */
function keyIdOf(key: KeyObject): Buffer {
  return createHash('sha1')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest();
}

function pemOf(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}
