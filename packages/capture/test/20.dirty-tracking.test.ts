import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { TreeImage } from '@ferry/image';
import { takenOf } from '../src/dirty-tracker.js';
import { TreeCapture } from '../src/index.js';
import { WRITER_START, type Writer, Writers } from './support/writer.js';

const PAGES = 64;

describe('dirty tracking', function () {
  this.timeout(90_000);
  let writers: Writers;
  let writer: Writer;
  let capture: TreeCapture | undefined;
  before(() => {
    writers = new Writers();
  });
  after(() => writers.close());
  afterEach(async () => {
    capture?.[Symbol.dispose]();
    capture = undefined;
    await writer.end();
  });

  async function tracked(...args: (string | number)[]): Promise<TreeCapture> {
    writer = await writers.start(...(args.length > 0 ? args : [PAGES]));
    capture = TreeCapture.open(writer.pid);
    const { layout, warnings } = capture.track();
    assert.deepEqual(warnings, []);
    assert.equal(layout.processes[0]?.mm?.runs.length, 0);
    return capture;
  }

  const numberOf = (address: bigint): number => Number((address - WRITER_START) >> 12n);

  /** Page numbers of the program's own memory among what is owed. */
  function owed(from: TreeCapture): number[] {
    return from.dirtyPages().flatMap(({ hostPid, address, pages }) => {
      assert.equal(hostPid, writer.pid);
      const first = numberOf(address);
      const inside = Array.from({ length: pages }, (_, i) => first + i);
      return inside.filter((page) => page >= 0 && page < 4096);
    });
  }

  function runPages(image: TreeImage, process = 0): number[] {
    return (image.processes[process]?.mm?.runs ?? []).flatMap(({ address, pages }) => {
      const first = numberOf(address);
      const inside = Array.from({ length: Number(pages) }, (_, i) => first + i);
      return inside.filter((page) => page >= 0 && page < 4096);
    });
  }

  function finish(from: TreeCapture): TreeImage {
    from.freeze();
    const image = from.capture();
    from.thaw();
    return image;
  }

  it('gives every page once, then those that were written', async () => {
    const from = await tracked();
    assert.deepEqual(
      owed(from),
      Array.from({ length: PAGES }, (_, i) => i),
    );
    assert.deepEqual(owed(from), []);
    await writer.do('write', 3);
    await writer.do('write', 40);
    await writer.do('kernel', 41);
    await writer.do('read', 5);
    assert.deepEqual(owed(from), [3, 40, 41]);
    await writer.do('write', 40);
    assert.deepEqual(runPages(finish(from)), [40]);
  });

  it('gives what was written between the last look and the stop, and nothing else of the program', async () => {
    const from = await tracked(4096);
    owed(from);
    await writer.do('write', 4000);
    const [process] = finish(from).processes;
    const pages = process!.mm!.runs.reduce((sum, run) => sum + run.pages, 0n);
    assert(pages < 40n, `${pages} pages`);
  });

  it('sees one page written of a huge page', async () => {
    const from = await tracked(4096, 'huge');
    assert.equal(owed(from).length, 4096);
    await writer.do('write', 700);
    const again = owed(from);
    assert(again.includes(700), `${again.length} pages`);
  });

  it('owes pages that were sent and are empty now', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('drop', 9);
    await writer.do('drop', 10);
    await writer.do('read', 10);
    assert.deepEqual(runPages(finish(from)), [9, 10]);
  });

  it('owes a mapping that was replaced, and one that was moved over another', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('replace', 20);
    await writer.do('move', 30);
    assert.deepEqual(runPages(finish(from)), [20, 30]);
  });

  it('takes a replaced mapping in a round', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('replace', 20);
    await writer.do('write', 20);
    await writer.do('move', 30);
    await writer.do('unmap', 31);
    assert.deepEqual(owed(from), [20, 30]);
    assert.deepEqual(owed(from), []);
    await writer.do('write', 20);
    assert.deepEqual(runPages(finish(from)), [20]);
  });

  it('leaves what the layout has no room for to the end', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('grow', 5);
    assert.deepEqual(owed(from), []);
    assert.deepEqual(runPages(finish(from)), [64, 65, 66, 67, 68]);
  });

  it('sends a child whole, and goes on with its parent', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('fork', 6);
    assert.deepEqual(owed(from), [6]);
    const image = finish(from);
    assert.deepEqual(runPages(image), []);
    assert.equal(runPages(image, 1).length, PAGES);
  });

  it('sends everything of a process that runs another program', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('exec');
    assert.deepEqual(from.dirtyPages(), []);
    assert.equal(runPages(finish(from)).length, PAGES);
  });

  it('lasts through a stop that is taken back', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('write', 1);
    finish(from);
    await writer.do('write', 2);
    assert.deepEqual(owed(from), [1, 2]);
  });

  it('gives what a frozen tree owes before its capture, which has the rest', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('write', 3);
    await writer.do('grow', 2);
    await writer.do('drop', 7);
    from.freeze();
    assert.deepEqual(owed(from), [3, 7]);
    assert.deepEqual(runPages(from.capture()), [64, 65]);
  });

  it('leaves what its queries write to, to the capture', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('write', 3);
    from.freeze();
    // Its last two words are the stack pointer and the program counter.
    const words = readFileSync(`/proc/${writer.pid}/syscall`, 'latin1').trim().split(' ');
    const stack = Number(words.at(-2));
    const isStack = ({ address, pages }: { address: bigint; pages: bigint | number }) =>
      Number(address) <= stack && stack < Number(address) + Number(pages) * 4096;
    assert.ok(!from.dirtyPages().some(isStack));
    const runs = from.capture().processes[0]?.mm?.runs ?? [];
    assert.ok(runs.some(isStack));
  });

  it('owes all of it again when the tree runs on after that', async () => {
    const from = await tracked();
    owed(from);
    await writer.do('write', 3);
    from.freeze();
    assert.deepEqual(owed(from), [3]);
    from.thaw();
    await writer.do('write', 4);
    await writer.do('drop', 3);
    from.freeze();
    assert.deepEqual(runPages(from.capture()), [3, 4]);
    from.thaw();
    assert.deepEqual(owed(from), [4]);
  });

  it('leaves nothing in the program: no descriptor, no registered mapping', async () => {
    const from = await tracked();
    owed(from);
    assert.match(smaps(), /^VmFlags:.* uw( |$)/m);
    for (const fd of readdirSync(`/proc/${writer.pid}/fd`)) {
      assert.doesNotMatch(readlinkSync(`/proc/${writer.pid}/fd/${fd}`), /userfaultfd/);
    }
    from.untrack();
    assert.doesNotMatch(smaps(), /^VmFlags:.* uw( |$)/m);
    assert.equal(await writer.do('write', 3), 'done');
  });

  it('owes nothing of a process that ends while it is looked at, and hides no other failure', () => {
    const take = () => {
      throw new Error('no such process');
    };
    assert.deepEqual(takenOf({ take, isAlive: () => false }), []);
    assert.throws(() => takenOf({ take, isAlive: () => true }), /no such process/);
  });

  it('ends with the process that does it, killed without a warning', async () => {
    writer = await writers.start(PAGES);
    const script = `
      import { TreeCapture } from ${JSON.stringify(new URL('../src/index.ts', import.meta.url).href)};
      const capture = TreeCapture.open(${writer.pid});
      capture.track();
      capture.dirtyPages();
      console.log('tracking');
      setInterval(() => {}, 1000);`;
    const args = ['--import', 'tsx', '--input-type=module', '--eval', script];
    const tracer = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(tracer.stdout, 'data');
    assert.match(smaps(), /^VmFlags:.* uw( |$)/m);
    tracer.kill('SIGKILL');
    await once(tracer, 'exit');
    assert.doesNotMatch(smaps(), /^VmFlags:.* uw( |$)/m);
    assert.equal(await writer.do('write', 3), 'done');
  });

  function smaps(): string {
    return readFileSync(`/proc/${writer.pid}/smaps`, 'latin1');
  }
});
