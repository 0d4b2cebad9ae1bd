import { strict as assert } from 'node:assert';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { hash64 } from '@ferry/linux';
import { Pager, type PagerFigures, type WantedPages } from '../src/index.js';

const PAGES = 8192;
const PID = 7;

/** A program that runs without its memory; see support/pager-guest.c. */
class Guest {
  readonly child: ChildProcess;
  readonly lines: AsyncIterator<string>;
  descriptor = 0;
  address = 0n;

  constructor(program: string) {
    this.child = spawn(program, [String(PAGES)], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.lines = createInterface({ input: this.child.stdout! })[Symbol.asyncIterator]();
  }

  async start(): Promise<void> {
    const [descriptor, address] = (await this.line()).split(' ');
    this.descriptor = Number(descriptor);
    this.address = BigInt(address ?? 0);
  }

  async line(): Promise<string> {
    return String((await this.lines.next()).value);
  }

  /** What its memory holds at its source. */
  content({ address, pages }: WantedPages): Buffer {
    const first = Number((address - this.address) / 4096n);
    const out = Buffer.alloc(pages * 4096);
    for (let word = 0; word < pages * 512; word++) {
      out.writeBigUInt64LE(BigInt(first * 512 + word + 1), word * 8);
    }
    return out;
  }
}

describe('pages: a pager', function () {
  this.timeout(60_000);
  let folder: string;
  let program: string;
  let guest: Guest;
  let pagerPid: number | undefined;
  const socket = () => join(folder, 'pager.sock');

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ferry-pager-'));
    program = join(folder, 'guest');
    const source = join(import.meta.dirname, 'support/pager-guest.c');
    execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-pthread', '-o', program, source]);
  });
  after(() => rmSync(folder, { recursive: true }));
  beforeEach(async () => {
    guest = new Guest(program);
    await guest.start();
  });
  afterEach(() => {
    guest.child.kill('SIGKILL');
  });

  /** @param cgroup  a folder with a `cgroup.procs` */
  async function begin(cgroup = folder): Promise<Pager> {
    const pager = await Pager.spawn(socket(), { cgroup });
    pagerPid = workerOf(folder);
    const { address: start, descriptor } = guest;
    const owed = [
      { start, end: start + 4096n * 1000n },
      { start: start + 4096n * 1000n, end: start + 4096n * BigInt((PAGES / 16) * 15) },
    ];
    const ranges = [{ start, end: start + 4096n * BigInt(PAGES) }];
    await pager.add({ hostPid: guest.child.pid!, pid: PID, descriptor, ranges, owed });
    return pager;
  }

  async function put(pager: Pager, wanted: WantedPages): Promise<void> {
    const data = guest.content(wanted);
    await pager.put({ ...wanted, encoding: 'raw', hash: hash64(data), data });
  }

  /** Answers what is wanted, and pushes the rest slowly until all is there, or `signal` fires. */
  async function serve(pager: Pager, signal?: AbortSignal): Promise<PagerFigures> {
    pager.onWant = (wanted) => void put(pager, wanted).catch(() => {});
    pager.askAgain();
    for (;;) {
      if (signal?.aborted) throw signal.reason;
      const next = await pager.next(64);
      if (next === undefined) break;
      await put(pager, next);
      await sleep(2);
    }
    return await pager.done;
  }

  function go(): void {
    guest.child.stdin!.write('go\n');
  }

  it('gives a program that runs the memory that it had, whatever it does to it meanwhile', async () => {
    const pager = await begin();
    go();
    const figures = await serve(pager);
    assert.equal(await guest.line(), 'intact');
    assert.equal(figures.pagesLeft, 0);
    assert(figures.faults > 100, `${figures.faults} faults`);
    assert(figures.longestStallMs > 0);
    assert(figures.pagesPushed > 0 && figures.pagesWanted > 0);
    const came = figures.pagesPushed + figures.pagesWanted + figures.pagesDropped;
    assert.equal(came, (PAGES / 16) * 15);
    assert.doesNotMatch(
      readFileSync(`/proc/${guest.child.pid}/smaps`, 'utf8'),
      /^VmFlags:.* um( |$)/m,
    );
    await pager.end();
    assert(!existsSync(socket()));
  });

  it('has threads wait while nobody is connected, and goes on with whoever is', async () => {
    const first = await begin();
    go();
    for (let i = 0; i < 10; i++) {
      const next = await first.next(64);
      if (next !== undefined) await put(first, next);
    }
    first.disconnect();
    await sleep(50);
    const second = await Pager.connect(socket());
    const over = new AbortController();
    const served = serve(second, over.signal);
    await sleep(30);
    over.abort(new Error('enough'));
    await assert.rejects(served);
    second.disconnect();
    const third = await Pager.connect(socket());
    await serve(third);
    assert.equal(await guest.line(), 'intact');
    await third.end();
  });

  it('takes no pages that were damaged on their way', async () => {
    const pager = await begin();
    let harmed = 0;
    pager.onWant = (wanted) => {
      const data = guest.content(wanted);
      const hash = hash64(data);
      if (harmed++ < 3) data[100]! ^= 1;
      void pager.put({ ...wanted, encoding: 'raw', hash, data }).catch(() => {});
    };
    go();
    for (let next = await pager.next(64); next !== undefined; next = await pager.next(64)) {
      await put(pager, next);
    }
    await pager.done;
    assert.equal(await guest.line(), 'intact');
    await pager.end();
  });

  it('lets nothing run on with zeros when it is killed', async () => {
    const { writeFileSync } = await import('node:fs');
    const pager = await begin();
    go();
    writeFileSync(join(folder, 'cgroup.procs'), `${guest.child.pid}\n`);
    const ended = once(guest.child, 'exit');
    const removed = ended.then(() => writeFileSync(join(folder, 'cgroup.procs'), ''));
    process.kill(pagerPid!, 'SIGKILL');
    const [, signal] = (await ended) as [number | null, string];
    await removed;
    assert.equal(signal, 'SIGKILL');
    await assert.rejects(pager.done, { code: 'pages.pagerGone' });
  });
});

/** The one of a pager's two processes that works: the child of the other. */
function workerOf(folder: string): number | undefined {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (!readlinkSync(`/proc/${name}/exe`).endsWith('/ferry-pager')) continue;
      if (!readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(folder)) continue;
      const children = readFileSync(`/proc/${name}/task/${name}/children`, 'utf8').trim();
      if (children !== '') return Number(children);
    } catch {
      // It has ended.
    }
  }
  return undefined;
}
