import { deepEqual, equal, match, ok } from 'node:assert/strict';
import { join } from 'node:path';
import { ferryRoot } from '@ferry/core';
import { areaOf } from './coverage/areas.js';
import { blockersIn, blockersOf } from './coverage/blockers.js';
import { renderCoverage } from './coverage/render.js';
import { mergeResults } from './coverage/results.js';
import { programs } from './table.js';

describe('docs/coverage.md', () => {
  it('shows what each trial found, and what is known to be missing', () => {
    const text = renderCoverage({
      programs: [
        { name: 'tcp-a', source: 'tcp', missing: { twoPhase: 'it moves' } },
        { name: 'pipe-b', later: 'seldom', blocker: /x/ },
      ],
      results: {
        'tcp-a': { tree: 'carried', rollback: 'failed', containerMove: 'skipped' },
        'pipe-b': { carriedOrRefused: 'refused' },
      },
      blockers: [{ code: 'file.x', reason: 'a | b', remedy: 'close it' }],
      aboutOf: (source) => `About ${source}.`,
    });
    match(text, /## Sockets\n\nAbout tcp\.\n/);
    match(text, /\| tcp-a \| yes \| \*\*no\*\* \| – \| not yet \| it moves \|/);
    match(text, /\| pipe-b \| blocker \| – \| – \| – \| seldom \|/);
    match(text, /\| `file\.x` \| a \\\| b \| close it \|/);
    match(text, /^2 programs: as a process tree 1 carried, 1 blockers, 0 not yet/m);
  });

  it('finds blockers in the code, with what is only known later left open', () => {
    deepEqual(
      blockersOf(
        ['refuse({ code: "a.b", reason: `it has $', '{f({})} of them` + "!", remedy });'].join(''),
      ),
      [{ code: 'a.b', reason: 'it has … of them!', remedy: '…' }],
    );
    const codes = blockersIn([join(ferryRoot(), 'packages')]).map(({ code }) => code);
    for (const code of ['file.ioUring', 'memory.sealed', 'process.traced', 'socket.kernelTls']) {
      ok(codes.includes(code), `${code} is not found`);
    }
  });

  it('keeps earlier results of programs that were not tried', () => {
    const merged = mergeResults(
      { a: { tree: 'carried' }, b: { tree: 'failed' } },
      {
        b: { tree: 'carried', rollback: 'carried' },
      },
    );
    deepEqual(merged, {
      a: { tree: 'carried' },
      b: { tree: 'carried', rollback: 'carried' },
    });
  });

  it('has an area for every program', () => {
    equal(areaOf('timerfd'), 'Signals and time');
    for (const { name, source } of programs) ok(areaOf(source ?? name) !== '');
  });
});
