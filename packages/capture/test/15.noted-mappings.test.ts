import { deepStrictEqual, strictEqual } from 'node:assert/strict';
import { parseMappings } from '@ferry/linux';
import { withFlags } from '../src/noted-mappings.js';

const smaps = (text: string) =>
  parseMappings(text.replace(/ \{(.*)\}/g, (_, flags: string) => `\nVmFlags: ${flags}`));
const noted = smaps(`1000-3000 rw-p 00000000 00:00 0 {rd wr dc}
3000-4000 r--p 00000000 08:01 7 /a {rd}
8000-9000 rw-p 00000000 00:00 0 {rd wr}`);
const flagsOf = (text: string) => withFlags(smaps(text), noted)?.map(({ flags }) => flags.join());

describe('mappings noted before a freeze', () => {
  it('give their flags to what stands where they stood', () => {
    deepStrictEqual(
      flagsOf(`1000-3000 rw-p 00000000 00:00 0
3000-4000 r--p 00000000 08:01 7 /a
8000-9000 rw-p 00000000 00:00 0`),
      ['rd,wr,dc', 'rd', 'rd,wr'],
    );
  });

  it('give them to one that grew or shrank', () => {
    deepStrictEqual(flagsOf('2000-3000 rw-p 00000000 00:00 0\n7000-a000 rw-p 00000000 00:00 0'), [
      'rd,wr,dc',
      'rd,wr',
    ]);
  });

  for (const [how, text] of [
    ['stands where nothing was', '5000-6000 rw-p 00000000 00:00 0'],
    ['has other permissions', '1000-3000 r--p 00000000 00:00 0'],
    ['is of another file', '3000-4000 r--p 00000000 08:01 8 /b'],
    ['shows another part of its file', '3000-4000 r--p 00001000 08:01 7 /a'],
    ['covers two with different flags', '2000-9000 rw-p 00000000 00:00 0'],
  ] as const) {
    it(`say nothing of one that ${how}`, () => strictEqual(flagsOf(text), undefined));
  }
});
