import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import {
  type Caller,
  checkTicket,
  type Journey,
  type OpenSession,
  type ReceiveMigrationRequest,
  type Security,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import { z } from 'zod';

const entrySchema = z.strictObject({
  nonce: z.string(),
  migrationId: z.string(),
  /** Who may take what the source gives: the destination's node. Empty at a destination. */
  destination: z.string(),
  untilMs: z.number(),
});
type Entry = z.output<typeof entrySchema>;

/** Who a migration leaves for is known for as long as its journal entry. */
const KEPT_MS = 7 * 24 * 3600 * 1000;
const ENTRIES_MAX = 100_000;

/** The tickets that this agent has seen: each lets one migration begin, once, and says who its other side is. On disk, so
 *  that a restart does not make a used ticket new. Without certificates nobody can sign, and everything is let in. */
export class Tickets {
  readonly #security: Security;
  readonly #node: string;
  readonly #file: string;
  readonly #spent = new Map<string, Entry>();
  readonly #destinations = new Map<string, string>();

  constructor(options: { security: Security; node: string; file: string }) {
    this.#security = options.security;
    this.#node = options.node;
    this.#file = options.file;
    for (const entry of readEntries(options.file)) this.#remember(entry);
    if (this.#spent.size > 0) this.#rewrite();
  }

  /** At the destination: whether what the controller asks may begin.
   *  @throws FerryError ticket.* */
  receive(request: ReceiveMigrationRequest): void {
    const { migrationId, container, sourceNode, epoch, ticket } = request;
    const journey = { migrationId, container, sourceNode, epoch, destinationNode: this.#node };
    this.#spend(ticket, journey, '');
  }

  /** At the source: whether a destination may begin, or go on with what it began.
   *  @throws FerryError ticket.*, security.denied */
  open(request: OpenSession, caller: Caller): void {
    const { migrationId, container, destinationNode, epoch, again, ticket } = request;
    // Settling what was committed needs no ticket: its time may be long over. Who began it goes on with it.
    if (again) {
      this.mayPull(migrationId, caller);
      return;
    }
    const journey = { migrationId, container, destinationNode, epoch, sourceNode: this.#node };
    this.#spend(ticket, journey, destinationNode);
  }

  /** Pages, layers and state go to the destination on the ticket and to nobody else.
   *  @throws FerryError security.denied */
  mayPull(migrationId: string, caller: Caller): void {
    if (this.#security.tls === undefined) return;
    const destination = this.#destinations.get(migrationId);
    if (destination === undefined) {
      throw new FerryError('migrate.unknown', `Migration ${migrationId} is not known here`);
    }
    if (caller.role === 'agent' && caller.name === destination) return;
    throw new FerryError(
      'security.denied',
      `Migration ${migrationId} goes to ${destination}, not to ${caller.name}`,
    );
  }

  #spend(ticket: Buffer | undefined, journey: Journey, destination: string): void {
    const { tls } = this.#security;
    if (tls === undefined) return;
    const { nonce, untilMs } = checkTicket(tls.current, ticket, { journey, now: Date.now() });
    if (this.#spent.has(nonce)) {
      throw new FerryError('ticket.used', 'The ticket of the migration was used before', {
        remedy: 'start the migration again: the controller signs a new one',
      });
    }
    const entry = { nonce, migrationId: journey.migrationId, destination, untilMs };
    this.#remember(entry);
    appendLine(this.#file, entry);
    if (this.#spent.size > ENTRIES_MAX) this.#rewrite();
  }

  #remember(entry: Entry): void {
    this.#spent.set(entry.nonce, entry);
    if (entry.destination !== '') this.#destinations.set(entry.migrationId, entry.destination);
  }

  /** Leaves out what is over for good. */
  #rewrite(): void {
    const now = Date.now();
    for (const [nonce, entry] of this.#spent) {
      if (entry.untilMs + KEPT_MS > now) continue;
      this.#spent.delete(nonce);
      this.#destinations.delete(entry.migrationId);
    }
    const next = `${this.#file}.new`;
    const fd = openSync(next, 'w', 0o600);
    try {
      for (const entry of this.#spent.values()) writeSync(fd, `${JSON.stringify(entry)}\n`);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(next, this.#file);
  }
}

function appendLine(file: string, entry: Entry): void {
  const fd = openSync(file, 'a', 0o600);
  try {
    writeSync(fd, `${JSON.stringify(entry)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** A last line that a crash cut short was not acted upon. */
function readEntries(file: string): Entry[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return text.split('\n').flatMap((line) => {
    try {
      return [entrySchema.parse(JSON.parse(line))];
    } catch {
      return [];
    }
  });
}
