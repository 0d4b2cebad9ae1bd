import { X509Certificate } from 'node:crypto';
import type { PeerCertificate } from 'node:tls';
import { FerryError } from '@ferry/core';
import {
  type Metadata,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
} from '@grpc/grpc-js';
import { toStatus } from '../error-detail.js';
import { type Auditor, type AuditTrail, notAudited } from './audit.js';
import { isDenied } from './deny-list.js';
import { type Caller, callerText, identityOf, uriOf } from './identity.js';
import { type Rule, ruleOf } from './policy.js';
import type { TlsFolder } from './tls-folder.js';
import type { TokenFile } from './tokens.js';

export interface GuardOptions {
  /** Undefined: connections are not encrypted, and whoever reaches the port is let in unless tokens are asked for. */
  readonly tls: TlsFolder | undefined;
  readonly tokens: TokenFile | undefined;
  readonly audit: Auditor | undefined;
  readonly now?: () => number;
}

/** Whose call it is, for handlers. By the call's own metadata object: nothing that comes over the wire gets in here. */
const callers = new WeakMap<Metadata, Caller>();

/** Of a server without a guard: a test's. */
const nobody: Caller = { role: 'local', name: 'unguarded' };

export function callerOf(metadata: Metadata): Caller {
  return callers.get(metadata) ?? nobody;
}

/** The one place where calls are let in or refused: who calls is found out, the method's rule is looked up, and what has
 *  no rule is refused. Nothing of a refused call reaches a handler. */
export function guard(options: GuardOptions): ServerInterceptor {
  return (method, call) => {
    const rule = ruleOf(method.path);
    let trail: AuditTrail = notAudited;
    let caller: Caller | undefined;
    const refuse = (error: unknown) => {
      trail.failed(error);
      const status = toStatus(error);
      call.sendStatus({ ...status, details: status.details ?? '' });
    };
    return new ServerInterceptingCall(call, {
      start: (next) => {
        next({
          onReceiveMetadata: (metadata, pass) => {
            try {
              caller = identify(call, metadata, options);
              if (rule?.mutates) {
                const [who, from] = [caller, call.getPeer()];
                trail = options.audit?.begin({ method: method.path, who, from }) ?? notAudited;
              }
              admit(method.path, rule, caller);
            } catch (error) {
              refuse(error);
              return;
            }
            callers.set(metadata, caller ?? nobody);
            pass(metadata);
          },
          onReceiveMessage: (message, pass) => {
            try {
              checkOwn(rule, caller, message);
            } catch (error) {
              refuse(error);
              return;
            }
            trail.request(message);
            pass(message);
          },
          onCancel: () => trail.cancelled(),
        });
      },
      sendMessage: (message, pass) => {
        trail.response(message);
        pass(message);
      },
      sendStatus: (status, pass) => {
        trail.ended(status);
        pass(status);
      },
    });
  };
}

/** @returns undefined: he did not say
 *  @throws FerryError security.unauthenticated  for a proof that proves nothing */
function identify(
  call: ServerInterceptingCallInterface,
  metadata: Metadata,
  options: GuardOptions,
): Caller | undefined {
  const [header] = metadata.get('authorization');
  metadata.remove('authorization'); // nobody behind the guard needs the secret
  if (header !== undefined && options.tokens !== undefined) {
    const token = /^Bearer (\S{1,200})$/.exec(String(header))?.[1];
    const caller = token === undefined ? undefined : options.tokens.callerOf(token);
    if (caller !== undefined) return caller;
    throw new FerryError(
      'security.unauthenticated',
      'The token is not known, or its time is over',
      {
        remedy: 'get a new one with "ferry ca token"',
      },
    );
  }
  if (options.tls !== undefined) {
    const { sslPeerCertificate } = call.getAuthContext();
    return sslPeerCertificate === undefined
      ? undefined
      : certified(sslPeerCertificate, options.tls, options.now?.() ?? Date.now());
  }
  return options.tokens === undefined ? { role: 'local', name: call.getPeer() } : undefined;
}

/** What certificates say, by their SHA-256: a cutover makes half a dozen calls, and to read one takes a while. */
const known = new Map<string, ReturnType<typeof parsed>>();
const KNOWN_MAX = 500;

function parsed(raw: Buffer) {
  const certificate = new X509Certificate(raw);
  return { certificate, identity: identityOf(certificate) };
}

function read({ raw, fingerprint256 }: PeerCertificate): ReturnType<typeof parsed> {
  const before = known.get(fingerprint256);
  if (before !== undefined) return before;
  const found = parsed(raw);
  if (known.size >= KNOWN_MAX) known.clear();
  known.set(found.certificate.fingerprint256, found);
  return found;
}

/** Checked with every call, not only when the connection is made: a connection may live for weeks. */
function certified(peer: PeerCertificate, tls: TlsFolder, now: number): Caller {
  const { certificate, identity } = read(peer);
  if (identity === undefined) {
    throw new FerryError(
      'security.unauthenticated',
      `The certificate of ${JSON.stringify(certificate.subject)} does not say who it is for`,
      { remedy: 'issue one with exactly one alternative name ferry://ROLE/NAME' },
    );
  }
  if (isDenied(tls.current.denied, certificate, uriOf(identity))) {
    throw new FerryError('security.unauthenticated', 'This certificate was revoked', {
      remedy: 'issue a new one with "ferry ca issue"',
    });
  }
  if (Date.parse(certificate.validTo) < now) {
    throw new FerryError('security.unauthenticated', 'This certificate has expired', {
      remedy: 'issue a new one with "ferry ca renew"',
    });
  }
  return identity;
}

function admit(path: string, rule: Rule | undefined, caller: Caller | undefined): void {
  if (rule?.roles === 'anyone') return;
  if (caller === undefined) {
    throw new FerryError('security.unauthenticated', 'This needs a certificate or a token', {
      remedy: 'give --tls FOLDER or --token-file FILE',
    });
  }
  if (rule !== undefined && (caller.role === 'local' || rule.roles.includes(caller.role))) return;
  const needed = rule === undefined ? 'nobody' : rule.roles.join(' or ');
  throw new FerryError(
    'security.denied',
    `${callerText(caller)} may not call ${path.split('/').pop()}`,
    { remedy: `it is for ${needed}` },
  );
}

function checkOwn(rule: Rule | undefined, caller: Caller | undefined, message: unknown): void {
  if (rule?.own === undefined || caller === undefined || caller.role === 'local') return;
  const name = rule.own(message as never);
  if (name === undefined || name === caller.name) return;
  throw new FerryError(
    'security.denied',
    `${callerText(caller)} may not speak for ${JSON.stringify(name)}`,
    { remedy: 'the name of a node is the name in its certificate' },
  );
}
