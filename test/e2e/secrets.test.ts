import assert from 'node:assert/strict';
import { createPrivateKey, randomBytes, X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as actions from '../support/actions.js';
import { Cluster } from '../support/cluster.js';
import { tracesOf } from '../support/traces.js';

/** A place where no secret may stand, as latin1, and where it is. */
interface Haystack {
  readonly where: string;
  readonly text: string;
}

/** What would give `bytes` away, whichever way they were written: as they are, in hex, in base64 from each of its three
 *  beginnings. Its ends are left off, which depend on what stands beside it. */
function spellings(bytes: Buffer): string[] {
  const base64 = [0, 1, 2].map((skip) => bytes.subarray(skip).toString('base64').slice(0, 40));
  const hex = bytes.toString('hex').slice(0, 60);
  return [bytes.toString('latin1').slice(0, 32), hex, hex.toUpperCase(), ...base64];
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true);
}

describe('the secrets of a cluster', function () {
  this.timeout(120_000);
  const password = randomBytes(24).toString('hex');
  let cluster: Cluster;

  before(async () => {
    cluster = await Cluster.start({ hosts: ['h1', 'h2'], redisPassword: password });
    const rootfs = await actions.makeRootfsFolders(cluster.folder.path);
    await actions.runTicker(cluster, { name: 'ticker', node: 'h1', rootfs: rootfs.shell });
    await actions.migrate(cluster, 'ticker', 'h2');
    const file = join(cluster.folder.path, 'ticker.ferry');
    await cluster.ferryJson(['checkpoint', 'ticker', '--out', file]);
    await cluster.ferryJson(['restore', file, '--node', 'h1']);
    await actions.migrate(cluster, 'ticker', 'h2');
    // What goes wrong tells the most.
    await cluster.ferry(['migrate', 'ticker', '--to', 'h2']);
    await cluster.ferry(['migrate', 'nosuch', '--to', 'h1']);
  });
  afterEach(function () {
    if (this.currentTest?.state === 'failed') console.error(cluster.logTails());
  });
  after(async () => {
    await cluster?.remove();
  });

  /** Of every program of the cluster and of its containers. */
  function ofProcesses(file: 'cmdline' | 'environ'): Haystack[] {
    return tracesOf(cluster.folder.id).processes.flatMap(({ pid, what }) => {
      try {
        const text = readFileSync(`/proc/${pid}/${file}`, 'latin1');
        return [{ where: `${file} of ${what.slice(0, 60)}`, text }];
      } catch {
        return []; // it has ended
      }
    });
  }

  function ofFiles(paths: readonly string[]): Haystack[] {
    return paths.map((where) => ({ where, text: readFileSync(where, 'latin1') }));
  }

  const logs = () =>
    ofFiles(filesBelow(cluster.folder.path).filter((path) => path.endsWith('.log')));
  const redis = () => ofFiles(filesBelow(join(cluster.folder.path, 'queue', 'appendonlydir')));
  const everywhere = () => [
    ...logs(),
    ...redis(),
    ...ofProcesses('cmdline'),
    ...ofProcesses('environ'),
  ];

  function nowhere(secret: string, needles: readonly string[]): void {
    for (const { where, text } of everywhere()) {
      for (const needle of needles) assert(!text.includes(needle), `${secret} stands in ${where}`);
    }
  }

  it('are looked for where the cluster writes', () => {
    const has = (stacks: readonly Haystack[], text: string) =>
      assert(
        stacks.some((stack) => stack.text.includes(text)),
        `${text} is not found`,
      );
    has(logs(), '"container":"ticker"');
    has(redis(), 'ticker');
    has(ofProcesses('cmdline'), 'ferry-agent.mjs');
    has(ofProcesses('cmdline'), '--redis-password-file');
    has(ofProcesses('environ'), cluster.folder.id);
    assert(logs().some(({ where }) => where.endsWith('audit.log')));
  });

  it('private keys stand nowhere', () => {
    const files = filesBelow(cluster.folder.path).filter((path) => path.endsWith('.key'));
    const keys = files.filter((path) => readFileSync(path, 'latin1').includes('PRIVATE KEY'));
    assert(keys.length >= 4, `${keys.length} keys: of the agents, the controller, the operator`);
    for (const path of keys) {
      const der = createPrivateKey(readFileSync(path)).export({ type: 'pkcs8', format: 'der' });
      // Its last bytes are the secret; the first ones say which kind of key it is.
      nowhere(path, spellings(der.subarray(-32)));
    }
  });

  it('the key of checkpoints stands nowhere', () => {
    const path = join(cluster.folder.path, 'checkpoint.key');
    const text = readFileSync(path, 'latin1').trim();
    const lines = text.split('\n').filter((line) => line.length >= 32 && !line.includes('-----'));
    assert(lines.length > 0, 'the file has a line of its key');
    for (const line of lines) nowhere(path, [line, line.slice(-32)]);
  });

  it('the password of Redis stands nowhere', () => {
    nowhere('the password', [password, ...spellings(Buffer.from(password))]);
  });

  it('tickets stand nowhere', () => {
    // Each holds the certificate of the controller that signed it, which nothing else of this has a use for.
    const folders = filesBelow(cluster.folder.path).filter((path) => path.endsWith('.crt'));
    const own = folders.filter((path) => path.includes('controller'));
    assert(own.length > 0);
    for (const path of own) {
      const { raw } = new X509Certificate(readFileSync(path));
      nowhere(`a ticket (${path})`, spellings(raw.subarray(raw.length >> 1)));
    }
  });
});
