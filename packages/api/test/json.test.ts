import { strict as assert } from 'node:assert';
import {
  checkAddress,
  checkContainerName,
  checkNodeName,
  MigrationResult,
  Operation,
  toErrorDetail,
  toPlainJson,
  toStatus,
} from '../src/index.js';

describe('api: plain JSON of messages', () => {
  it('writes snake_case names, exact numbers, and the field a oneof holds', () => {
    const operation = Operation.fromPartial({
      id: 'a',
      createdAtMs: 5n,
      result: {
        $case: 'migration',
        value: MigrationResult.fromPartial({ bytesRaw: 2n ** 60n, downtimeMs: 1.5, bytesWire: 7n }),
      },
    });
    const plain = JSON.parse(JSON.stringify(toPlainJson(operation)));
    assert.equal(plain.created_at_ms, 5);
    assert.equal(plain.migration.bytes_raw, '1152921504606846976');
    assert.equal(plain.migration.bytes_wire, 7);
    assert.equal(plain.migration.downtime_ms, 1.5);
    assert.ok(!('error' in plain) && !('result' in plain));
  });

  it('leaves the keys of labels alone and writes bytes as base64', () => {
    const plain = toPlainJson({ labels: { fooBar: 'x' }, data: Buffer.from('hi') });
    assert.deepEqual(plain, { labels: { fooBar: 'x' }, data: 'aGk=' });
  });
});

describe('api: names and addresses', () => {
  for (const name of ['a', 'redis-1', '0a_b.c', 'x'.repeat(63)]) {
    it(`accepts the container name ${name}`, () => assert.equal(checkContainerName(name), name));
  }
  for (const name of ['', '-a', 'A', 'a/b', '..', 'x'.repeat(64), 'a b', 'a\n']) {
    it(`refuses the container name ${JSON.stringify(name)}`, () => {
      assert.throws(() => checkContainerName(name), { code: 'request.invalid' });
    });
  }
  for (const address of ['h:1', '127.0.0.1:7460', '[::1]:65535', 'a.b-c:80']) {
    it(`accepts the address ${address}`, () => assert.equal(checkAddress(address), address));
  }
  for (const address of ['h', 'h:0', 'h:65536', '::1:5', ':5', 'h:5/', 'unix:/x']) {
    it(`refuses the address ${address}`, () => {
      assert.throws(() => checkAddress(address), { code: 'request.invalid' });
    });
  }
  it('refuses a node name with an underscore', () => {
    assert.throws(() => checkNodeName('a_b'), { code: 'request.invalid' });
  });
});

describe('api: errors as status', () => {
  const rows: [string, number][] = [
    ['node.unknown', 5],
    ['container.taken', 6],
    ['request.invalid', 3],
    ['migrate.preflight', 9],
    ['rpc.unavailable', 14],
  ];
  for (const [code, expected] of rows) {
    it(`gives ${code} the status ${expected}`, () => {
      const error = Object.assign(new Error('x'), { code });
      assert.equal(toStatus(error).code, expected);
    });
  }
  it('does not take the code of a system error for one of ours', () => {
    const error = Object.assign(new Error('no such file'), { code: 'ENOENT' });
    assert.equal(toErrorDetail(error).code, 'internal');
  });
  it('says of a full disk what to do about it', () => {
    const error = Object.assign(new Error('ENOSPC: no space left on device, write'), {
      code: 'ENOSPC',
    });
    const { code, message, remedy } = toErrorDetail(error);
    assert.equal(code, 'host.noSpace');
    assert.match(message, /no space left on device/);
    assert.match(remedy, /free space/);
    assert.equal(toStatus(error).code, 8);
  });
  it('keeps the detail small enough for a header', () => {
    const text = 'x'.repeat(900);
    const problems = Array.from({ length: 50 }, () => ({ code: text, object: text }));
    const status = toStatus(Object.assign(new Error(text), { code: 'a.b', problems }));
    const [detail] = status.metadata?.get('ferry-error-bin') ?? [];
    assert.ok(Buffer.isBuffer(detail) && detail.length > 900 && detail.length <= 6 * 1024);
  });
});
