import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  allocateAddress,
  formatIpv4,
  formatIpv6,
  macForIpv4,
  pairedIpv6,
  parseIpv4,
  parseIpv6,
  parseRange4,
  parseSubnet4,
  parseSubnet6,
  subnet4Contains,
} from '../src/addresses.js';
import { advertisementFrame, arpFrame, internetChecksum } from '../src/neighbour.js';

describe('addresses', () => {
  it('reads back every IPv4 address it writes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (value) => {
        assert.equal(parseIpv4(formatIpv4(value)), value);
      }),
    );
  });

  it('reads back every IPv6 address it writes, also with runs of zeros', () => {
    const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
        const value = groups.reduce((sum, part) => (sum << 16n) | BigInt(part), 0n);
        assert.equal(parseIpv6(formatIpv6(value)), value, formatIpv6(value));
      }),
    );
  });

  it('writes IPv6 addresses as people do', () => {
    assert.equal(formatIpv6(parseIpv6('fd77:0:0:0:0:0:0:a')), 'fd77::a');
    assert.equal(formatIpv6(0n), '::');
    assert.equal(formatIpv6(1n), '::1');
    assert.equal(formatIpv6(parseIpv6('fe80::')), 'fe80::');
  });

  it('pairs an IPv6 address and a MAC with an IPv4 address', () => {
    const address = parseIpv4('10.77.0.10');
    const paired = pairedIpv6(parseSubnet6('fd77::/64'), parseSubnet4('10.77.0.0/24'), address);
    assert.equal(formatIpv6(paired), 'fd77::a');
    assert.equal(macForIpv4(address), '02:fe:0a:4d:00:0a');
  });

  for (const text of ['10.0.0.0', '10.0.0.0/33', '10.0.0/8', 'x/24', '10.0.0.0/31']) {
    it(`refuses ${text} as a subnet`, () => {
      assert.throws(() => parseSubnet4(text), { code: 'container.address' });
    });
  }

  it('refuses a range outside the subnet or upside down', () => {
    const subnet = parseSubnet4('10.77.0.0/24');
    for (const text of ['10.77.0.9-10.77.0.3', '10.77.0.9-10.77.1.3', '10.77.0.9']) {
      assert.throws(() => parseRange4(text, subnet), { code: 'container.address' });
    }
  });
});

describe('allocateAddress', () => {
  it('gives each address of the range once, in order, then says that none is free', () => {
    const subnet = parseSubnet4('10.1.0.0/28');
    const range = parseRange4(undefined, subnet);
    const taken = new Set<number>();
    for (let count = 0; count < 14; count++) {
      const address = allocateAddress(range, taken);
      assert.ok(!taken.has(address) && subnet4Contains(subnet, address));
      taken.add(address);
    }
    assert.throws(() => allocateAddress(range, taken), {
      code: 'container.address',
      message: /No address is free in 10\.1\.0\.1-10\.1\.0\.14/,
    });
  });
});

describe('announcements', () => {
  const mac = Buffer.from('02fe0a4d000a', 'hex');

  it('are ARP packets of the address about itself', () => {
    const ip = parseIpv4('10.77.0.10');
    const frame = arpFrame({
      ...{ operation: 'request', senderMac: mac, senderIp: ip },
      ...{ targetMac: Buffer.alloc(6), targetIp: ip },
    });
    assert.equal(
      frame.subarray(0, 42).toString('hex'),
      'ffffffffffff02fe0a4d000a08060001080006040001' + '02fe0a4d000a0a4d000a0000000000000a4d000a',
    );
  });

  it('are neighbour advertisements with a valid checksum', () => {
    const frame = advertisementFrame(mac, parseIpv6('fd77::a'));
    assert.equal(frame.length, 86);
    const pseudo = Buffer.alloc(8);
    pseudo.writeUInt32BE(32, 0);
    pseudo.writeUInt32BE(58, 4);
    const covered = Buffer.concat([frame.subarray(22, 54), pseudo, frame.subarray(54)]);
    assert.equal(internetChecksum(covered), 0);
    assert.equal(frame.readUInt8(54), 136);
    assert.equal(frame.readUInt8(58) & 0x20, 0x20);
  });
});
