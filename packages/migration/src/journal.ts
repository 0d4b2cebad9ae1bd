import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FerryError } from '@ferry/core';
import { z } from 'zod';

/** A decision about one migration that its source must not forget. */
const entrySchema = z.strictObject({
  migrationId: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$/),
  /** committed: the destination may run it, and this host never again · cancelled: it will never be granted. */
  decision: z.enum(['committed', 'cancelled']),
  container: z.string(),
  /** That the destination owns. */
  epoch: z.string().regex(/^\d+$/),
});
export type JournalEntry = z.output<typeof entrySchema>;

const KEPT_MS = 7 * 24 * 3600 * 1000;

/** The source's decisions on disk, one small file each. It is read before an agent does anything else. */
export class Journal {
  readonly #folder: string;
  readonly #entries = new Map<string, JournalEntry>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** @throws FerryError migrate.journal when an entry cannot be understood */
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
      if (old && entry.decision === 'cancelled') await rm(path);
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

  /** The committed migration that a container here left with, if any. */
  committedOf(container: string): JournalEntry | undefined {
    return [...this.#entries.values()].find(
      (entry) => entry.container === container && entry.decision === 'committed',
    );
  }

  /** Returns once the decision is on disk; it holds from then on, whatever happens. */
  async write(entry: JournalEntry): Promise<void> {
    const path = this.#path(entry.migrationId);
    const file = await open(`${path}.new`, 'w', 0o600);
    try {
      await file.writeFile(JSON.stringify(entrySchema.parse(entry)));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
    this.#entries.set(entry.migrationId, entry);
    const folder = await open(this.#folder, 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }

  /** Once nothing is left here that the decision is about. */
  async forget(migrationId: string): Promise<void> {
    this.#entries.delete(migrationId);
    await rm(this.#path(migrationId), { force: true });
  }

  #path(migrationId: string): string {
    return join(this.#folder, `${migrationId}.json`);
  }
}
