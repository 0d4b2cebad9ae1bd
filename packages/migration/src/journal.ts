import { renameSync, statfsSync } from 'node:fs';
import {
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
} from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import { z } from 'zod';

/** statfs(2) */
const TMPFS_MAGIC = 0x0102_1994;

const idSchema = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$/);

/** What one host has decided about one migration, and must not forget.
 *
 *  source       committed: the destination may run it, this host not · returned: it is this host's again, the
 *               destination's copy never ran · reclaimed: it runs here again since · aborted: it ended before it was
 *               committed, and never will be · destroyed: the copy here is gone, the destination's runs · cancelled: it
 *               will never be granted
 *  destination  receiving: something is made here, without the right to run · granted: it may run here · fetching: it
 *               may run here, and not all of its memory is · resumed: it runs here, and the source may not know · succeeded, abandoned: how it ended */
const entrySchema = z.strictObject({
  migrationId: idSchema,
  role: z.enum(['source', 'destination']).default('source'),
  decision: z.enum([
    ...(['committed', 'returned', 'reclaimed', 'aborted', 'destroyed', 'cancelled'] as const),
    ...(['receiving', 'granted', 'fetching', 'resumed', 'succeeded', 'abandoned'] as const),
  ]),
  container: z.string(),
  /** That the destination owns. */
  epoch: z.string().regex(/^\d+$/),
  /** The other side: the destination must find the source again. */
  peer: z.strictObject({ node: z.string(), address: z.string() }).optional(),
  /** Of the host when it was written: what ran under another boot id runs no more. */
  bootId: z.string().default(''),
  /** Why it ended so. */
  error: z.strictObject({ code: z.string(), message: z.string(), remedy: z.string() }).optional(),
  /** succeeded: the MigrationResult, as JSON. */
  result: z.string().optional(),
});
export type JournalEntry = z.output<typeof entrySchema>;
export type Decision = JournalEntry['decision'];

/** Decisions that nothing is left to be done about; kept so that a late repetition gets the same answer. */
const FINAL: ReadonlySet<Decision> = new Set([
  ...(['cancelled', 'aborted', 'reclaimed', 'destroyed', 'succeeded', 'abandoned'] as const),
]);
const KEPT_MS = 7 * 24 * 3600 * 1000;

export function isUnsettled(entry: JournalEntry): boolean {
  return !FINAL.has(entry.decision);
}

/** An entry that lies beside its place. */
interface Prepared {
  readonly text: string;
  /** The journal's folder. */
  readonly folder: FileHandle;
}

/** A host's decisions on disk, one small file each. It is read before an agent does anything else. */
export class Journal {
  readonly #folder: string;
  /** On a tmpfs: to rename takes no time there, and to sync does nothing (noop_fsync, fs/libfs.c). */
  readonly #isInMemory: boolean;
  readonly #entries = new Map<string, JournalEntry>();
  /** Under way, by migration. */
  readonly #writes = new Map<string, Promise<void>>();
  readonly #prepared = new Map<string, Prepared>();
  /** Called after every change. */
  onChange: () => void = () => {};

  private constructor(folder: string) {
    this.#folder = folder;
    this.#isInMemory = statfsSync(folder).type === TMPFS_MAGIC;
  }

  /** @param folder  on a tmpfs where that can be: it need not outlive the host, whose copies do not either
   *  @throws FerryError migrate.journal when an entry cannot be understood */
  static async open(folder: string, nowMs: number): Promise<Journal> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const journal = new Journal(folder);
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      const { mtimeMs } = await stat(path);
      if (name.endsWith('.new')) await rm(path);
      else await journal.#load(path, nowMs - mtimeMs > KEPT_MS);
    }
    return journal;
  }

  async #load(path: string, old: boolean): Promise<void> {
    try {
      const entry = entrySchema.parse(JSON.parse(await readFile(path, 'utf8')));
      if (old && !isUnsettled(entry)) await rm(path);
      else this.#entries.set(entry.migrationId, entry);
    } catch (cause) {
      throw new FerryError('migrate.journal', `Journal entry ${path} cannot be understood`, {
        cause,
        remedy: 'find out where the container of that migration runs before you remove the file',
      });
    }
  }

  get(migrationId: string): JournalEntry | undefined {
    return this.#entries.get(migrationId);
  }

  /** What an agent that starts has to settle. */
  unsettled(): JournalEntry[] {
    return [...this.#entries.values()].filter(isUnsettled);
  }

  /** The committed migration that a container here left with, if any. */
  committedOf(container: string): JournalEntry | undefined {
    return [...this.#entries.values()].find(
      (entry) => entry.container === container && entry.decision === 'committed',
    );
  }

  /** The migration that a container comes here with, if any. */
  incomingOf(container: string): JournalEntry | undefined {
    return this.unsettled().find(
      (entry) => entry.container === container && entry.role === 'destination',
    );
  }

  /** Does what can be done of `write` before the decision is made, which holds nowhere by that: no reader sees it. The
   *  next write about that migration, the same or another one, ends it. */
  async prepare(entry: JournalEntry): Promise<void> {
    await this.#inOrder(entry.migrationId, async () => {
      await this.#drop(entry.migrationId);
      const text = await this.#lay(entry);
      this.#prepared.set(entry.migrationId, { text, folder: await open(this.#folder, 'r') });
    });
  }

  /** Returns once the decision is on disk; it holds from then on, whatever happens. Those about one migration are written
   *  in the order in which they were made. */
  async write(entry: JournalEntry): Promise<void> {
    await this.#inOrder(entry.migrationId, () => this.#write(entry));
  }

  async #inOrder(migrationId: string, work: () => Promise<void>): Promise<void> {
    const before = this.#writes.get(migrationId) ?? Promise.resolve();
    const done = before.catch(() => {}).then(work);
    this.#writes.set(migrationId, done);
    try {
      await done;
    } finally {
      if (this.#writes.get(migrationId) === done) this.#writes.delete(migrationId);
    }
  }

  async #write(entry: JournalEntry): Promise<void> {
    const { migrationId } = entry;
    const path = this.path(migrationId);
    const prepared = this.#prepared.get(migrationId);
    this.#prepared.delete(migrationId);
    const folder = prepared?.folder ?? (await open(this.#folder, 'r'));
    try {
      if (prepared?.text !== textOf(entry)) await this.#lay(entry);
      // The pool's threads have other work to do, and a container stands.
      if (this.#isInMemory) renameSync(`${path}.new`, path);
      else await rename(`${path}.new`, path);
      this.#entries.set(migrationId, entry);
      this.onChange();
      if (!this.#isInMemory) await folder.sync();
    } finally {
      // Nobody need wait for that.
      void folder.close().catch(() => {});
    }
  }

  /** Puts an entry beside its place. */
  async #lay(entry: JournalEntry): Promise<string> {
    const text = textOf(entry);
    const file = await open(`${this.path(entry.migrationId)}.new`, 'w', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    return text;
  }

  async #drop(migrationId: string): Promise<void> {
    const prepared = this.#prepared.get(migrationId);
    this.#prepared.delete(migrationId);
    await prepared?.folder.close();
    await rm(`${this.path(migrationId)}.new`, { force: true });
  }

  /** Once nothing is left here that the decision is about. */
  async forget(migrationId: string): Promise<void> {
    this.#entries.delete(migrationId);
    await this.#inOrder(migrationId, async () => {
      await this.#drop(migrationId);
      await rm(this.path(migrationId), { force: true });
    });
    this.onChange();
  }

  path(migrationId: string): string {
    return join(this.#folder, `${migrationId}.json`);
  }
}

function textOf(entry: JournalEntry): string {
  return JSON.stringify(entrySchema.parse(entry));
}

/** What the file of an entry says, read by a process that has no journal of its own; undefined when there is none. */
export async function readDecision(path: string): Promise<Decision | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  return text === undefined ? undefined : entrySchema.parse(JSON.parse(text)).decision;
}
