import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { PeerCertificate } from 'node:tls';
import { FerryError } from '@ferry/core';
import {
  ChannelCredentials,
  Metadata,
  ServerCredentials,
  type ServerInterceptor,
} from '@grpc/grpc-js';
import { type AuditEntry, Auditor } from './audit.js';
import { isDenied } from './deny-list.js';
import { guard } from './guard.js';
import { identityOf, type Role, uriOf } from './identity.js';
import { TlsFolder } from './tls-folder.js';
import { TokenFile } from './tokens.js';

/** What a program's settings say about proofs. Paths are absolute. */
export interface SecuritySettings {
  /** Folder of certificates, see TlsFolder. */
  readonly tls?: string | undefined;
  /** A server's: the tokens that it accepts. */
  readonly tokens?: string | undefined;
  /** A client's: a file that holds its token. */
  readonly tokenFile?: string | undefined;
  /** A server's: the file in which calls that change something are put on record. */
  readonly auditLog?: string | undefined;
  /** Serve and call without encryption also beyond this host. */
  readonly insecure?: boolean | undefined;
}

/** Who must answer at the other end. */
export interface ExpectedPeer {
  readonly role: Role;
  /** Undefined: whoever has the role. */
  readonly name?: string | undefined;
}

interface Options {
  /** Told of things that somebody has to look after while the program goes on. */
  readonly onProblem?: (text: string) => void;
  readonly onReload?: () => void;
  /** Takes what no audit log takes. */
  readonly onAudit?: (entry: AuditEntry) => void;
  readonly pollMs?: number;
}

/** How a program proves who it is, and has others prove it: one object for all its servers and connections. */
export class Security {
  readonly tls: TlsFolder | undefined;
  readonly #tokens: TokenFile | undefined;
  readonly #token: string | undefined;
  readonly #auditor: Auditor | undefined = undefined;
  readonly #insecure: boolean;
  readonly #channels = new Map<string, ChannelCredentials>();

  private constructor(settings: SecuritySettings, options: Options) {
    const { tls, tokens, tokenFile, auditLog } = settings;
    const onProblem = options.onProblem ?? (() => {});
    this.#insecure = settings.insecure ?? false;
    if (tls !== undefined && this.#insecure) {
      throw new FerryError('settings.invalid', 'Both --tls and --insecure are given', {
        remedy: 'give --tls FOLDER alone',
      });
    }
    this.#tokens = tokens === undefined ? undefined : TokenFile.open(tokens, { onProblem });
    this.#token = tokenFile === undefined ? undefined : readToken(tokenFile);
    if (auditLog !== undefined) this.#auditor = Auditor.toFile(auditLog, onProblem);
    else if (options.onAudit !== undefined) this.#auditor = new Auditor(options.onAudit);
    this.tls = tls === undefined ? undefined : TlsFolder.open(tls, { ...options, onProblem });
  }

  /** @throws FerryError security.files, settings.invalid */
  static open(settings: SecuritySettings, options: Options = {}): Security {
    return new Security(settings, options);
  }

  /** Says which role this program must have, so that a wrong folder is told at the start and not by a peer.
   *  @throws FerryError security.files */
  mustBe(expected: ExpectedPeer): void {
    if (this.tls === undefined) return;
    const { identity } = this.tls.current;
    const right =
      identity?.role === expected.role &&
      (expected.name === undefined || identity.name === expected.name);
    if (right) return;
    const is = identity === undefined ? 'nobody' : `${identity.role}/${identity.name}`;
    const needed = `${expected.role}/${expected.name ?? 'NAME'}`;
    throw new FerryError(
      'security.files',
      `The certificate in ${this.tls.path} is for ${is}, and ${needed} is needed`,
      { remedy: `ferry ca issue --role ${expected.role} --name ${expected.name ?? 'NAME'}` },
    );
  }

  // ---- clients ----------------------------------------------------------------------------------------------------

  /** @throws FerryError security.insecure  when a secret or a call would go unprotected beyond this host */
  channelCredentials(address: string, peer: ExpectedPeer): ChannelCredentials {
    const { tls } = this;
    if (tls === undefined) {
      if (this.#token !== undefined && !isLocal(address)) {
        throw new FerryError('security.insecure', `The token would go to ${address} unprotected`, {
          remedy: 'give --tls FOLDER with the ca.crt of the cluster',
        });
      }
      return ChannelCredentials.createInsecure();
    }
    // One object for all channels to the same peer, so that they may share a connection.
    const key = `${peer.role}/${peer.name ?? ''}`;
    const known = this.#channels.get(key) ?? new FolderChannelCredentials(tls, peer);
    this.#channels.set(key, known);
    return known;
  }

  /** What goes with every call. */
  callMetadata(): Metadata {
    const metadata = new Metadata();
    if (this.#token !== undefined) metadata.set('authorization', `Bearer ${this.#token}`);
    return metadata;
  }

  // ---- servers ----------------------------------------------------------------------------------------------------

  /** @throws FerryError security.insecure  for a port that anybody could reach, without certificates */
  mayListen(listen: string): void {
    if (this.tls !== undefined || this.#insecure || isLocal(listen)) return;
    throw new FerryError(
      'security.insecure',
      `Nobody would have to prove who he is at ${listen}, and whoever calls could run anything`,
      {
        remedy:
          'give --tls FOLDER (see "ferry ca --help"), or listen on 127.0.0.1; --insecure is for closed test networks',
      },
    );
  }

  /** @throws FerryError security.insecure */
  serverCredentials(listen: string): ServerCredentials {
    this.mayListen(listen);
    if (this.tls === undefined) return ServerCredentials.createInsecure();
    return new FolderServerCredentials(this.tls, {
      certificatesRequired: this.#tokens === undefined,
    });
  }

  /** Lets calls in, or refuses them; see guard.ts. */
  interceptors(): ServerInterceptor[] {
    return [guard({ tls: this.tls, tokens: this.#tokens, audit: this.#auditor })];
  }

  /** Whether this program's ports are open to everybody on the network. */
  get isOpen(): boolean {
    return this.tls === undefined && this.#insecure;
  }

  close(): void {
    this.tls?.close();
  }
}

/** For connections within this host, and for tests: no proofs. */
export const noSecurity: Security = Security.open({});

/** Whether a listener or a peer is on this host alone. */
export function isLocal(address: string): boolean {
  return (
    address.startsWith('unix:') ||
    /^(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost):\d+$/.test(address)
  );
}

function readToken(path: string): string {
  try {
    const token = readFileSync(path, 'utf8').trim();
    if (!/^\S{1,200}$/.test(token)) throw new Error('It does not hold one token');
    return token;
  } catch (cause) {
    throw new FerryError('security.files', `The token in ${path} cannot be used`, {
      cause,
      remedy: 'give a file that holds what "ferry ca token" printed',
    });
  }
}

/** TLS 1.3 with whatever certificates lie in the folder when a connection begins; the other side must be `peer`, by the
 *  name in its certificate and not by its address. Made against grpc-js 1.14: what it overrides is internal there. */
class FolderChannelCredentials extends ChannelCredentials {
  readonly #tls: TlsFolder;
  readonly #check: (host: string, certificate: PeerCertificate) => Error | undefined;

  constructor(tls: TlsFolder, peer: ExpectedPeer) {
    super();
    this.#tls = tls;
    this.#check = (host, certificate) => checkPeer(tls, peer, { host, certificate });
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return other === this;
  }

  override _createSecureConnector(
    ...[target, options, callCredentials]: Parameters<ChannelCredentials['_createSecureConnector']>
  ): ReturnType<ChannelCredentials['_createSecureConnector']> {
    const verify = {
      checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
        this.#check(target.path, certificate),
    };
    // TLS knows servers by name only, not by address.
    const byAddress = isIP(target.path.replace(/:\d+$/, '').replace(/[[\]]/g, '')) !== 0;
    const named = byAddress ? { 'grpc.ssl_target_name_override': 'ferry' } : {};
    const now = () =>
      ChannelCredentials.createFromSecureContext(
        this.#tls.secureContext(),
        verify,
      )._createSecureConnector(target, { ...options, ...named }, callCredentials);
    const first = now();
    return {
      connect: (socket) => now().connect(socket),
      waitForReady: () => first.waitForReady(),
      getCallCredentials: () => first.getCallCredentials(),
      destroy: () => first.destroy(),
    };
  }
}

/** Called once the chain of signatures was found good. */
function checkPeer(
  tls: TlsFolder,
  peer: ExpectedPeer,
  { host, certificate: { raw } }: { host: string; certificate: PeerCertificate },
): Error | undefined {
  const certificate = new X509Certificate(raw);
  const identity = identityOf(certificate);
  const needed = `${peer.role}/${peer.name ?? 'any'}`;
  if (identity === undefined) {
    return new Error(`${host} has a certificate for nobody, and ${needed} is needed`);
  }
  const is = `${identity.role}/${identity.name}`;
  if (isDenied(tls.current.denied, certificate, uriOf(identity))) {
    return new Error(`The certificate of ${is} was revoked`);
  }
  if (identity.role === peer.role && (peer.name === undefined || identity.name === peer.name)) {
    return undefined;
  }
  return new Error(`${host} is ${is}, and ${needed} is needed`);
}

class FolderServerCredentials extends ServerCredentials {
  constructor(tls: TlsFolder, options: { certificatesRequired: boolean }) {
    const checks = { requestCert: true, rejectUnauthorized: options.certificatesRequired };
    super({ ...checks, minVersion: 'TLSv1.3' }, tls.current.context);
    tls.onChange(() => this.updateSecureContextOptions(tls.current.context));
  }

  override _equals(other: ServerCredentials): boolean {
    return other === this;
  }
}
