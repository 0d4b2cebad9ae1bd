import { strict as assert } from 'node:assert';
import { setTimeout as sleep } from 'node:timers/promises';
import { ProgressReporter } from '../src/progress.js';

const ROUNDS = { from: 0.2, to: 0.8 };

describe('migration: progress of memory', () => {
  let now = 0;
  const reporter = () => new ProgressReporter('web', () => now);
  const figures = ({ last }: ProgressReporter) => [
    Number(last.bytesRawDone),
    Number(last.bytesRawTotal),
    Number(last.bytesWireDone),
  ];

  it('adds up all rounds, and what comes last', () => {
    const progress = reporter();
    progress.announced(1000);
    const first = progress.stream(ROUNDS);
    first({ raw: 400, wire: 40 });
    first({ raw: 1000, wire: 100 });
    assert.deepEqual(figures(progress), [1000, 1000, 100]);
    progress.announced(0);
    assert.deepEqual(figures(progress), [1000, 1000, 100]);
    progress.announced(200);
    progress.announced(50);
    // Two streams at once.
    const [second, third] = [progress.stream(ROUNDS), progress.stream({ from: 0.8, to: 0.9 })];
    second({ raw: 100, wire: 10 });
    third({ raw: 50, wire: 5 });
    second({ raw: 200, wire: 20 });
    assert.deepEqual(figures(progress), [1250, 1250, 125]);
    assert.equal(progress.last.fraction, 0.8);
  });

  it('tells the rate of the round, not that of all time', () => {
    const progress = reporter();
    progress.announced(1000);
    now += 1000;
    progress.stream(ROUNDS)({ raw: 1000, wire: 100 });
    assert.equal(progress.last.bytesRawPerSecond, 1000);
    now += 60_000;
    progress.announced(500);
    now += 100;
    progress.stream(ROUNDS)({ raw: 500, wire: 100 });
    assert.equal(progress.last.bytesRawPerSecond, 5000);
  });

  it('counts anew what comes again, and its fraction does not fall', () => {
    const progress = reporter();
    progress.announced(1000);
    progress.stream(ROUNDS)({ raw: 1000, wire: 100 });
    progress.startAgain();
    progress.announced(900);
    progress.stream({ from: 0.3, to: 0.7 })({ raw: 900, wire: 90 });
    assert.deepEqual(figures(progress), [900, 900, 90]);
    assert.equal(progress.last.fraction, 0.8);
  });

  it('tells nobody while it is quiet, then the latest, or what there is at the end', async () => {
    const progress = new ProgressReporter('web', () => performance.now());
    let end: () => void = () => {};
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    const told: string[] = [];
    const listening = (async () => {
      const signal = new AbortController().signal;
      for await (const { phase } of progress.watch(signal, over)) told.push(phase);
    })();
    progress.tell('pages', '', 0.1);
    await sleep(5);
    progress.quietFor(100);
    for (const phase of ['freeze', 'capture', 'restore']) {
      progress.tell(phase, '', 0.2);
      await sleep(5);
    }
    assert.deepEqual(told, ['queued', 'pages']);
    while (told.length < 3) await sleep(5);
    assert.deepEqual(told, ['queued', 'pages', 'restore']);
    progress.quietFor(60_000);
    progress.tell('resume', '', 0.9);
    end();
    await listening;
    assert.deepEqual(told, ['queued', 'pages', 'restore', 'resume']);
  });
});
