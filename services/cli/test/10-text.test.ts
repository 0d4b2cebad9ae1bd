import { strict as assert } from 'node:assert';
import { Progress } from '@ferry/api';
import { FerryError } from '@ferry/core';
import { exitCodes, reportError } from '../src/errors.js';
import { agoText, bytesText, durationText, table } from '../src/output.js';
import {
  parseCount,
  parseDuration,
  parseMount,
  parsePair,
  parseSize,
  parseTime,
  parseUser,
} from '../src/parse.js';
import { barText, ProgressView, plainText } from '../src/progress.js';

describe('cli: what users type', () => {
  const sizes: [string, bigint][] = [
    ['0', 0n],
    ['4096', 4096n],
    ['64m', 67108864n],
    ['1.5GiB', 1610612736n],
    ['2T', 2199023255552n],
    ['10kb', 10240n],
  ];
  for (const [text, bytes] of sizes) {
    it(`size ${text}`, () => assert.equal(parseSize(text), bytes));
  }
  const now = new Date(2026, 4, 1, 12, 0, 0).getTime();
  const times: [string, number][] = [
    ['+10m', now + 600_000],
    ['+1.5h', now + 5_400_000],
    ['12:30', now + 1_800_000],
    ['11:59', now + 86_340_000],
    ['2030-01-02T03:04:05Z', Date.UTC(2030, 0, 2, 3, 4, 5)],
    ['2030-01-02 03:04+02:00', Date.UTC(2030, 0, 2, 1, 4)],
  ];
  for (const [text, at] of times) it(`time ${text}`, () => assert.equal(parseTime(text, now), at));
  it('durations', () => {
    assert.deepEqual(['500ms', '10s', '1.5m', '2h', '1d'].map(parseDuration), [
      ...[500, 10_000, 90_000, 7_200_000, 86_400_000],
    ]);
  });
  it('users, mounts and pairs', () => {
    assert.deepEqual(parseUser('7'), { uid: 7, gid: 7 });
    assert.deepEqual(parseUser('7:8'), { uid: 7, gid: 8 });
    const mount = { source: '/a', destination: '/b', readOnly: true };
    assert.deepEqual(parseMount('/a:/b:ro'), mount);
    assert.deepEqual(parseMount('/a:/b'), { ...mount, readOnly: false });
    assert.deepEqual(parsePair('a=b=c'), ['a', 'b=c']);
  });
  const wrong: [string, () => unknown][] = [
    ['size -1', () => parseSize('-1')],
    ['size 1x', () => parseSize('1x')],
    ['size 99999t', () => parseSize('99999t')],
    ['duration 10', () => parseDuration('10')],
    ['time yesterday', () => parseTime('yesterday', now)],
    ['time 25:00', () => parseTime('25:00', now)],
    ['a time that has passed', () => parseTime('2001-01-01T00:00:00Z', now)],
    ['time 2026-13-45', () => parseTime('2026-13-45', now)],
    ['count 0 of 1 to 5', () => parseCount('0', { what: 'x', min: 1, max: 5 })],
    ['count 1e1', () => parseCount('1e1', { what: 'x', min: 1, max: 50 })],
    ['user root', () => parseUser('root')],
    ['user 1:2:3', () => parseUser('1:2:3')],
    ['mount a:/b', () => parseMount('a:/b')],
    ['mount /a:/b:rx', () => parseMount('/a:/b:rx')],
    ['pair =b', () => parsePair('=b')],
  ];
  for (const [what, parse] of wrong) {
    it(`refuses ${what}, with a remedy`, () => {
      assert.throws(parse, (error: FerryError) => {
        return error.code === 'cli.usage' && (error.remedy ?? '') !== '';
      });
    });
  }
});

describe('cli: what users read', () => {
  it('bytes', () => {
    const texts = [0n, 1023n, 1024n, 1536n, 1n << 20n, 150n << 30n].map(bytesText);
    assert.deepEqual(texts, ['0 B', '1023 B', '1.0 KiB', '1.5 KiB', '1.0 MiB', '150 GiB']);
  });
  it('durations', () => {
    const texts = [1.25, 12, 1234, 61_000, 3_660_000].map(durationText);
    assert.deepEqual(texts, ['1.3 ms', '12 ms', '1.23 s', '1m01s', '1h01m']);
  });
  it('how long ago', () => {
    const ago = (seconds: number) => agoText(1_000n, 1000 + seconds * 1000);
    assert.deepEqual([5, 100, 7200, 300_000].map(ago), ['5s', '2m', '2h', '3d']);
    assert.equal(agoText(0n, 5), '-');
  });
  it('tables', () => {
    assert.equal(table(['A', 'BB'], [['xxx', 'y']]), 'A    BB\nxxx  y');
    assert.equal(table(['A', 'BB'], []), 'A  BB');
  });
});

describe('cli: progress', () => {
  const half = Progress.fromPartial({
    ...{ phase: 'pages', message: 'sending', fraction: 0.5 },
    ...{ bytesRawDone: 512n << 20n, bytesRawTotal: 1n << 30n, bytesRawPerSecond: 400 * 2 ** 20 },
  });
  it('is a bar that fits the terminal', () => {
    assert.equal(
      barText(half, 200),
      '[############............]  50 %  pages  512 MiB of 1.0 GiB, 400 MiB/s',
    );
    assert.equal(barText(half, 40).length, 39);
  });
  it('tells of rounds what is left, how fast it goes, how fast it changes, and what a cutover would cost', () => {
    const figures = { dirtyBytesPerSecond: 9 * 2 ** 20, predictedDowntimeMs: 31 };
    const early = plainText({ ...half, ...figures, round: 2 });
    assert.equal(early, ' 50 %  pages (round 2)  131072 pages left, 400 MiB/s');
    const late = plainText({ ...half, ...figures, round: 3 });
    assert.equal(late, `${early.replace('2)', '3)')}  changes 9.0 MiB/s, would stand 31 ms`);
    const over = plainText({ ...half, round: 3, bytesRawDone: half.bytesRawTotal + 4096n });
    assert.match(over, / 0 pages left/);
  });
  it('does not let a remote text control the terminal', () => {
    const evil = Progress.fromPartial({ phase: 'x', message: 'a\x1b[2Jb\nc' });
    assert.equal(plainText(evil), '  0 %  x  a?[2Jb?c');
  });
  it('redraws one line on a terminal and takes it away', () => {
    let text = '';
    const view = new ProgressView({ isTTY: true, columns: 30, write: (part) => (text += part) });
    view.show(half);
    view.show(half);
    view.close();
    assert.equal(text.split('\r\x1b[K').length, 4);
    assert.ok(text.endsWith('\r\x1b[K') && !text.includes('\n'));
  });
  it('is a few plain lines elsewhere', () => {
    const lines: string[] = [];
    const view = new ProgressView({ write: (line) => lines.push(line) });
    for (let step = 0; step <= 100; step += 1) view.show({ ...half, fraction: step / 100 });
    view.show({ ...half, phase: 'restore' });
    view.close();
    assert.equal(lines.length, 6);
    assert.ok(lines.every((line) => line.endsWith('\n')));
  });
});

describe('cli: exit status of errors', () => {
  const rows: [string, number][] = [
    ['cli.usage', exitCodes.usage],
    ['rpc.unavailable', exitCodes.unreachable],
    ['rpc.deadline', exitCodes.unreachable],
    ['node.unavailable', exitCodes.failed],
    ['container.unknown', exitCodes.failed],
  ];
  for (const [code, expected] of rows) {
    it(`is ${expected} for ${code}`, () => {
      const write = process.stderr.write.bind(process.stderr);
      let text = '';
      process.stderr.write = (part: string | Uint8Array) => {
        text += part;
        return true;
      };
      try {
        const error = new FerryError(code, 'It broke', { remedy: 'mend it' });
        assert.equal(reportError(error, []), expected);
        assert.equal(reportError(error, ['x', '--json']), expected);
      } finally {
        process.stderr.write = write;
      }
      const [line, remedy, json] = text.split('\n');
      assert.deepEqual([line, remedy], ['ferry: It broke', 'Remedy: mend it']);
      assert.deepEqual(JSON.parse(json ?? '').error, {
        ...{ code, message: 'It broke', remedy: 'mend it', problems: [] },
      });
    });
  }
});
