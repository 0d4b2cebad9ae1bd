import {
  type KeyObject,
  randomBytes,
  sign as signBytes,
  verify as verifyBytes,
  X509Certificate,
} from 'node:crypto';
import { FerryError } from '@ferry/core';
import { MigrationTicket, TicketBody } from '../generated/ferry/cluster/v1/migration_source.js';
import { isDenied } from './deny-list.js';
import { identityOf, uriOf } from './identity.js';
import type { TlsMaterial } from './tls-folder.js';

/** What a ticket is about. */
export interface Journey {
  readonly migrationId: string;
  readonly container: string;
  readonly sourceNode: string;
  readonly destinationNode: string;
  /** That the destination will own. */
  readonly epoch: bigint;
}

/** A ticket is good for so long; what is settled after COMMIT needs none. */
export const ticketLifeMs = 5 * 60 * 1000;
/** Clocks of hosts may differ by so much. */
const skewMs = 2 * 60 * 1000;
const ticketBytesMax = 8 * 1024;
/** So that a signature made for anything else is never one of a ticket. */
const domain = Buffer.from('ferry.cluster.v1.MigrationTicket\0');

/** Signs leave for one migration; every call gives another ticket, each good for one use at either side.
 *  @param material  a controller's: with a key for tickets
 *  @throws FerryError security.files */
export function signTicket(
  material: Pick<TlsMaterial, 'ticketSigner'>,
  journey: Journey,
  now: number,
): Buffer {
  const { ticketSigner } = material;
  if (ticketSigner === undefined) {
    throw new FerryError('security.files', 'There is no key to sign tickets with', {
      remedy: 'issue the folder of --tls with "ferry ca issue --role controller"',
    });
  }
  const body = TicketBody.encode({
    ...journey,
    notBeforeMs: BigInt(now),
    notAfterMs: BigInt(now + ticketLifeMs),
    nonce: randomBytes(16),
  }).finish();
  const signature = signBytes(
    digestFor(ticketSigner.key),
    Buffer.concat([domain, body]),
    ticketSigner.key,
  );
  const certificate = ticketSigner.certificate.raw;
  return Buffer.from(MigrationTicket.encode({ body, signature, certificate } as never).finish());
}

/** Ed25519 has its digest built in. */
function digestFor(key: KeyObject): string | null {
  return key.asymmetricKeyType === 'ed25519' ? null : 'sha256';
}

/** Checks that a controller of this cluster has signed the ticket for exactly this journey, and that its time is now.
 *  Whether it was used before is for the caller to know.
 *  @returns what the ticket is known by, and until when it has to be remembered
 *  @throws FerryError ticket.missing, ticket.invalid, ticket.expired, ticket.other */
export function checkTicket(
  material: Pick<TlsMaterial, 'authorities' | 'denied'>,
  bytes: Buffer | undefined,
  { journey, now }: { journey: Journey; now: number },
): { nonce: string; untilMs: number } {
  if (bytes === undefined || bytes.length === 0) {
    throw new FerryError('ticket.missing', 'The migration comes without a ticket', {
      remedy: 'start it with "ferry migrate": the controller signs a ticket for it',
    });
  }
  const body = readSigned(material, bytes, now);
  const [from, until] = [Number(body.notBeforeMs) - skewMs, Number(body.notAfterMs) + skewMs];
  if (now < from || now > until || until - from > ticketLifeMs + 2 * skewMs) {
    throw new FerryError('ticket.expired', 'The ticket of the migration is not good at this time', {
      remedy: 'start the migration again; if that fails too, set the clocks of the hosts right',
    });
  }
  for (const field of fields) {
    if (body[field] === journey[field]) continue;
    throw new FerryError(
      'ticket.other',
      `The ticket is for ${field} ${body[field]}, and this is ${journey[field]}`,
      { remedy: 'start the migration with "ferry migrate"' },
    );
  }
  if (body.nonce.length !== 16) throw invalid('it has no number of its own');
  return { nonce: body.nonce.toString('hex'), untilMs: until };
}

const fields = [
  ...(['migrationId', 'container', 'sourceNode', 'destinationNode', 'epoch'] as const),
] as const;

function readSigned(
  material: Pick<TlsMaterial, 'authorities' | 'denied'>,
  bytes: Buffer,
  now: number,
): TicketBody {
  if (bytes.length > ticketBytesMax) throw invalid('it is too large');
  let ticket: MigrationTicket;
  let certificate: X509Certificate;
  try {
    ticket = MigrationTicket.decode(bytes);
    certificate = new X509Certificate(ticket.certificate);
  } catch (cause) {
    throw invalid('it cannot be read', cause);
  }
  const issuer = material.authorities.find(
    (authority) =>
      authority.ca && certificate.checkIssued(authority) && certificate.verify(authority.publicKey),
  );
  if (issuer === undefined) throw invalid('its signer is not of this cluster');
  const identity = identityOf(certificate);
  if (identity?.role !== 'controller') throw invalid('its signer is not a controller');
  if (isDenied(material.denied, certificate, uriOf(identity)))
    throw invalid('its signer was revoked');
  const alive = Date.parse(certificate.validFrom) <= now && now <= Date.parse(certificate.validTo);
  if (!alive) throw invalid("its signer's certificate is not good at this time");
  const signed = Buffer.concat([domain, ticket.body]);
  const key = certificate.publicKey;
  if (!verifyBytes(digestFor(key), signed, key, ticket.signature)) {
    throw invalid('its signature is wrong');
  }
  return TicketBody.decode(ticket.body);
}

function invalid(why: string, cause?: unknown): FerryError {
  const options = cause === undefined ? {} : { cause };
  return new FerryError('ticket.invalid', `The ticket of the migration is refused: ${why}`, {
    ...options,
    remedy: 'start the migration with "ferry migrate" on a controller of this cluster',
  });
}
