// On the controller's machine: queues FERRY_LOAD_MIGRATIONS migrations of the containers named in argv by API, to
// wherever the controller thinks best, as many at once as the containers allow. Prints one line of JSON: how they ended.
import { type ClusterClient, connectCluster, MigrateContainerRequest, Security } from '@ferry/api';
import { sleep } from '../support/shell.js';

const FINAL = ['succeeded', 'failed', 'cancelled', 'in-doubt'];
const LOOK_MS = 300;
/** The container's last operation is not over, or the call was not answered in time: it is made again. */
const AGAIN = /container\.busy|^rpc\./;

const security = Security.open({ tls: process.env.FERRY_TLS, tokenFile: undefined });
const cluster: ClusterClient = connectCluster(process.env.FERRY_CONTROLLER ?? '', { security });
const names = process.argv.slice(2);
const migrations = Number(process.env.FERRY_LOAD_MIGRATIONS);
const ends: { state: string; error: string }[] = [];
let queued = 0;

async function answered<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!AGAIN.test(`${(error as { code?: string }).code}`)) throw error;
      await sleep(LOOK_MS);
    }
  }
}

/** A container takes one operation at a time: the next one is queued as soon as it is accepted. */
async function begin(name: string): Promise<string> {
  const requestId = `load-${queued}`;
  const request = MigrateContainerRequest.fromPartial({ name, to: '', requestId });
  return (await answered(() => cluster.migrateContainer(request))).id;
}

async function moveOn(name: string): Promise<void> {
  while (queued < migrations) {
    queued += 1;
    const id = await begin(name);
    for (;;) {
      const { state, error } = await answered(() => cluster.getOperation({ id }));
      if (FINAL.includes(state)) {
        ends.push({ state, error: error === undefined ? '' : `${error.code}: ${error.message}` });
        break;
      }
      await sleep(LOOK_MS);
    }
  }
}

await Promise.all(names.map(moveOn));
process.stdout.write(`${JSON.stringify(ends)}\n`);
process.exit(0);
