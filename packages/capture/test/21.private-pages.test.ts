import assert from 'node:assert/strict';
import type { Vma } from '@ferry/image';
import type { OwnPages } from '@ferry/linux';
import { contentsOf, groups, within } from '../src/private-pages.js';

const PAGE = 4096n;

function vma(from: bigint, to: bigint, fields: Partial<Vma> = {}): Vma {
  const [start, end] = [from * PAGE, to * PAGE];
  return { start, end, kind: 'anonymous', shared: false, ...fields } as Vma;
}

function pages(from: bigint, to: bigint) {
  return { start: from * PAGE, end: to * PAGE };
}

describe('private pages', () => {
  it('are looked for in neighbouring mappings at once, over holes and what little is not private', () => {
    const [a, b, c] = [vma(1n, 3n), vma(3n, 5n, { kind: 'file' }), vma(900_000n, 900_002n)];
    const kernels = vma(5n, 7n, { kind: 'vvar' });
    assert.deepEqual(groups([a, b, c], [a, b, kernels, c]), [pages(1n, 900_002n)]);
  });

  it('are not looked for through much that is shared', () => {
    const [a, b] = [vma(1n, 3n), vma(2000n, 2001n)];
    const shared = vma(3n, 2000n, { shared: true, kind: 'shared' });
    assert.deepEqual(groups([a, b], [a, shared, b]), [pages(1n, 3n), pages(2000n, 2001n)]);
  });

  it('bring guard pages with them, those of other mappings too', () => {
    const [own, shared, known] = [vma(1n, 9n), vma(10n, 900n, { shared: true }), vma(900n, 2000n)];
    const asked: unknown[] = [];
    const pagemap = {
      contents: (start: bigint, end: bigint) => {
        asked.push(['contents', start / PAGE, end / PAGE]);
        const found: OwnPages[] = [{ ...pages(1n, 2n), written: true }];
        return { own: found, guards: [pages(8n, 9n)] };
      },
      guardPages: (start: bigint, end: bigint) => {
        asked.push(['guards', start / PAGE, end / PAGE]);
        return [pages(9n, 10n), pages(20n, 21n)];
      },
    };
    const { guards } = contentsOf(pagemap, [own], [own, shared, known], new Set([known]));
    assert.deepEqual(asked, [
      ['contents', 1n, 9n],
      ['guards', 10n, 900n],
    ]);
    assert.deepEqual(guards, [pages(8n, 10n), pages(20n, 21n)]);
  });

  it('are cut where a mapping ends', () => {
    const found = [pages(1n, 4n), pages(5n, 6n), pages(8n, 12n), pages(20n, 21n)];
    assert.deepEqual(within(found, pages(3n, 10n)), [pages(3n, 4n), pages(5n, 6n), pages(8n, 10n)]);
    assert.deepEqual(within(found, pages(13n, 15n)), []);
  });
});
