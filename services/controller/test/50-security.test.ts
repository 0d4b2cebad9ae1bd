import { strict as assert } from 'node:assert';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken, Security } from '@ferry/api';
import { certificateFolder, testAuthority } from '../../../test/support/certificates.js';
import { parseSettings } from '../src/settings.js';
import { until } from './support/calls.js';
import { startControllerProgram, type TestController } from './support/controller.js';
import { freePort } from './support/port.js';
import { end } from './support/redis.js';

const PASSWORD = 'correct-horse-battery-staple';

describe('controller: Redis with ACL and TLS, and its secrets', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-redis-tls-'));
  const passwordFile = join(folder, 'password');
  const { token, line } = createToken({ role: 'operator', name: 'ci', days: 1 });
  const open: Security[] = [];
  let redis: ChildProcess;
  let url: string;
  let controller: TestController;

  before(async () => {
    const own = certificateFolder(folder, { role: 'viewer', name: 'redis', hosts: ['127.0.0.1'] });
    const port = await freePort();
    url = `rediss://127.0.0.1:${port}`;
    const rules = 'on ~ferry:* &ferry:* +@all -@dangerous +info +client';
    writeFileSync(join(folder, 'acl'), `user default off\nuser ferry ${rules} >${PASSWORD}\n`);
    writeFileSync(passwordFile, `${PASSWORD}\n`, { mode: 0o600 });
    writeFileSync(join(folder, 'token'), token, { mode: 0o600 });
    writeFileSync(join(folder, 'tokens'), `${line}\n`);
    writeFileSync(join(folder, 'authority.crt'), testAuthority().certificate);
    redis = spawn('redis-server', [
      ...['--port', '0', '--tls-port', String(port), '--bind', '127.0.0.1', '--dir', folder],
      ...['--tls-cert-file', join(own, 'tls.crt'), '--tls-key-file', join(own, 'tls.key')],
      ...['--tls-ca-cert-file', join(folder, 'authority.crt'), '--tls-auth-clients', 'no'],
      ...['--aclfile', join(folder, 'acl'), '--save', '', '--appendonly', 'yes'],
    ]);
    let text = '';
    redis.stdout?.on('data', (data) => {
      text += data;
    });
    await until('Redis', () => (text.includes('Ready to accept connections') ? true : undefined));
    const tls = certificateFolder(folder, { role: 'controller', name: 'c1' });
    const bare = certificateFolder(folder, { role: 'viewer', name: 'bare' });
    for (const name of ['tls.crt', 'tls.key']) rmSync(join(bare, name));
    const security = Security.open({ tls: bare, tokenFile: join(folder, 'token') });
    open.push(security);
    const args = ['--tls', tls, '--tokens', join(folder, 'tokens'), ...redisArgs(passwordFile)];
    controller = await startControllerProgram(url, { args, security });
  });
  after(async () => {
    await controller?.end();
    for (const security of open) security.close();
    await end(redis, 'SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  function redisArgs(password: string): string[] {
    const ca = join(folder, 'authority.crt');
    return ['--redis-user', 'ferry', '--redis-password-file', password, '--redis-ca', ca];
  }

  it('serves with a user that may touch its own keys only', async () => {
    const { client } = controller;
    assert.deepEqual(await client.listNodes({}), { nodes: [] });
    const request = { name: 'nosuch', to: '', mode: '', requestId: 'r1', policy: undefined };
    await assert.rejects(client.migrateContainer(request), { code: 'container.unknown' });
    await assert.rejects(client.cordonNode({ node: 'nosuch' }), { code: 'node.unknown' });
    await until('the audit', () =>
      controller.log.some((text) => text.includes('"who":"operator/ci"')) ? true : undefined,
    );
  });

  it('says so when the password is wrong', async () => {
    const wrong = join(folder, 'wrong');
    writeFileSync(wrong, 'wrong');
    await assert.rejects(
      startControllerProgram(url, { args: redisArgs(wrong) }),
      /WRONGPASS|NOAUTH/,
    );
  });

  it('takes no password in an argument, and forgets the one in its environment', () => {
    const parse = (...args: string[]) => parseSettings(args, { FERRY_REDIS_PASSWORD: 'x' });
    for (const bad of ['redis://:p@h:1', 'rediss://u:p@h:1/0']) {
      assert.throws(() => parse('--redis', bad), {
        code: 'settings.invalid',
        remedy: /password-file/,
      });
    }
    assert.throws(() => parse('--redis-password-file', '/no/such/file'), {
      code: 'settings.invalid',
    });
    const settings = parse('--redis', 'redis://h:1');
    assert.ok(settings !== 'help' && settings.redis.password === 'x');
  });

  it('has no secret in its log, its arguments, or in Redis', () => {
    const places = new Map([
      ['log', controller.log.join('\n')],
      ['arguments', readFileSync(`/proc/${controller.pid}/cmdline`, 'utf8')],
    ]);
    const appended = join(folder, 'appendonlydir');
    for (const name of readdirSync(appended)) {
      places.set(name, readFileSync(join(appended, name), 'latin1'));
    }
    const keys = ['tls.key', 'ticket.key'].map((name) => {
      const pem = readFileSync(join(folder, 'tls', 'controller-c1', name), 'utf8');
      return pem.split('\n')[1] ?? '';
    });
    for (const [place, text] of places) {
      assert.ok(text.length > 0, place);
      for (const secret of [PASSWORD, token, ...keys]) {
        assert.ok(secret.length > 20 && !text.includes(secret), `a secret is in ${place}`);
      }
    }
  });
});
