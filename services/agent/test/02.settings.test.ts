import { strict as assert } from 'node:assert';
import { parseSettings } from '../src/settings.js';

const needed = ['--state-dir', '/srv/x', '--bridge', 'br0', '--subnet', '10.0.0.0/16'];

function parsed(...args: string[]) {
  const settings = parseSettings([...needed, ...args]);
  assert(settings !== 'help');
  return settings;
}

describe('agent: its settings', () => {
  it('bound how much of the host migrations may have, or not', () => {
    const usual = parsed();
    assert(usual.maxOutgoing >= 2 && usual.maxIncoming >= 2);
    assert.equal(usual.bytesPerSecond, 0);
    const args = ['--max-outgoing', '3', '--max-incoming', '0', '--bandwidth', '64m'];
    const { maxOutgoing, maxIncoming, bytesPerSecond } = parsed(...args);
    assert.deepEqual([maxOutgoing, maxIncoming, bytesPerSecond], [3, 0, 64 << 20]);
  });

  for (const wrong of [
    ['--max-outgoing', '-1'],
    ['--max-outgoing', '1.5'],
    ['--max-incoming', 'many'],
    ['--bandwidth', '0'],
    ['--bandwidth', '10MBit'],
    ['--bandwidth', '9999999999g'],
    ['--nothing'],
  ]) {
    it(`refuse ${wrong.join(' ')}`, () => {
      assert.throws(() => parsed(...wrong), { code: 'settings.invalid' });
    });
  }
});
