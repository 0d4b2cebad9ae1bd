import { readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerHost } from '@ferry/container';
import type { FoundCopy } from './destination-machine.js';
import { readBootId } from './host-facts.js';
import { LOADER_STORE } from './loader.js';

/** What the restorer ends with when it ends before the tree ran: STATUS_OTHER_FAILED and STATUS_STEP_FAILED of
 *  restorer.h. */
const RESTORER_STATUS: readonly (number | undefined)[] = [97, 98];
const LOOK_AGAIN_MS = 20;
/** A restorer that lost its agent has ended within this, unless somebody stops it. */
const PATIENCE_MS = 10_000;

/** Whether the restored processes of a container, whose restorer nobody talks with any more, were let go.
 *  @param written  what was found on disk when the agent started, and under which boot id it was written */
export async function findCopy(
  host: ContainerHost,
  name: string,
  written: { readonly epoch: bigint; readonly bootId: string } | undefined = undefined,
): Promise<FoundCopy> {
  for (let waitedMs = 0; ; waitedMs += LOOK_AGAIN_MS) {
    const record = (await host.find(name))?.record;
    if (record === undefined || record.phase === 'incoming' || record.phase === 'creating') {
      return 'none';
    }
    if (record.phase !== 'restoring') {
      return written === undefined || BigInt(record.epoch) === written.epoch ? 'ran' : 'none';
    }
    if (written !== undefined && written.bootId !== readBootId()) return 'lost';
    const pid = await host.initPid(name).catch(() => undefined);
    if (pid === undefined || !hasMemory(pid)) return await endedCopy(host, name);
    if (!host.pids(name).some(holdsStore)) return 'ran';
    if (waitedMs > PATIENCE_MS) return 'lost';
    await sleep(LOOK_AGAIN_MS);
  }
}

async function endedCopy(host: ContainerHost, name: string): Promise<FoundCopy> {
  const exit = await host.waitExit(name);
  if (exit === undefined) return 'lost';
  return RESTORER_STATUS.includes(exit.status) ? 'none' : 'ran';
}

/** A process that ends gives up its memory before its descriptors (kernel/exit.c: do_exit), and `exe` with it. */
function hasMemory(pid: number): boolean {
  try {
    readlinkSync(`/proc/${pid}/exe`);
    return true;
  } catch {
    return false;
  }
}

/** The restorer holds the file of its programs until it goes out of the way. */
function holdsStore(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) =>
      readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith(`/memfd:${LOADER_STORE}`),
    );
  } catch {
    return false; // it has just ended
  }
}
