import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  createAuthority,
  createToken,
  identityOf,
  initAuthority,
  issue,
  issueFolder,
  readAuthority,
  TlsFolder,
  TokenFile,
} from '../../src/index.js';
import { isDenied, parseDenyList } from '../../src/security/deny-list.js';

describe('api: certificates', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-certificates-'));
  const authority = createAuthority({ name: 'Test CA', days: 10 });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('are good in the eyes of OpenSSL, and say who they are for', () => {
    const hosts = ['node1.example.org', '10.0.0.1'];
    for (const key of ['ec', 'ed25519'] as const) {
      const made = issue(authority, { role: 'agent', name: 'node1', hosts, days: 5, key });
      writeFileSync(join(folder, 'ca.pem'), authority.certificate);
      writeFileSync(join(folder, 'one.pem'), made.certificate);
      const strict = ['-x509_strict', '-purpose', 'sslserver', '-verify_hostname', hosts[0]!];
      const args = ['verify', '-CAfile', 'ca.pem', ...strict, 'one.pem'];
      assert.match(execFileSync('openssl', args, { cwd: folder }).toString(), /one\.pem: OK/);
      const certificate = new X509Certificate(made.certificate);
      assert.deepEqual(identityOf(certificate), { role: 'agent', name: 'node1' });
      assert.match(
        certificate.subjectAltName ?? '',
        /DNS:node1\.example\.org, IP Address:10\.0\.0\.1/,
      );
      assert.equal(certificate.ca, false);
      assert.equal(certificate.publicKey.asymmetricKeyType, key);
    }
  });

  it('do not outlive their authority, and name nobody by a name that could be read two ways', () => {
    const made = issue(authority, { role: 'viewer', name: 'v', days: 1000 });
    const end = (pem: string) => Date.parse(new X509Certificate(pem).validTo);
    assert.equal(end(made.certificate), end(authority.certificate));
    for (const name of ['', 'A', '../x', 'a b', 'x/admin', `a${'b'.repeat(63)}`]) {
      assert.throws(() => issue(authority, { role: 'viewer', name, days: 1 }), {
        code: 'security.invalid',
      });
    }
  });

  it('of others are read so that no trick with quotes makes an admin', () => {
    const of = (subjectAltName: string) => identityOf({ subjectAltName });
    assert.deepEqual(of('DNS:a, URI:ferry://viewer/v, IP Address:10.0.0.1'), {
      role: 'viewer',
      name: 'v',
    });
    const tricks = [
      'URI:"x, URI:ferry://admin/root, y"',
      'URI:"x\\", URI:ferry://admin/root"',
      'DNS:"a, URI:ferry://admin/root"',
      'URI:ferry://viewer/v, URI:ferry://admin/root',
      'URI:ferry://admin/root/../x',
      'URI:ferry://king/root',
      'email:URI:ferry://admin/root',
      '',
    ];
    for (const trick of tricks) assert.equal(of(trick), undefined, trick);
  });

  it('are denied by name, serial number or fingerprint', () => {
    const { certificate: pem } = issue(authority, { role: 'agent', name: 'lost', days: 1 });
    const certificate = new X509Certificate(pem);
    const uri = 'ferry://agent/lost';
    for (const line of [uri, certificate.serialNumber, certificate.fingerprint256]) {
      const list = parseDenyList(`# lost in a train\n${line.toLowerCase()}  # h3\n\n`);
      assert.ok(isDenied(list, certificate, uri), line);
    }
    assert.ok(!isDenied(parseDenyList('ferry://agent/other\nabc\n'), certificate, uri));
    assert.throws(() => parseDenyList('agent/lost'), { code: 'security.invalid' });
  });

  it('lie in folders whose keys only their owner reads; an authority is not overwritten', () => {
    const ca = join(folder, 'ca');
    initAuthority(ca, { name: 'CA', days: 9 });
    assert.throws(() => initAuthority(ca, { name: 'CA', days: 9 }), { code: 'security.exists' });
    const to = join(folder, 'c1');
    issueFolder(to, readAuthority(ca), { role: 'controller', name: 'c1', days: 1 });
    for (const name of [join(ca, 'ca.key'), join(to, 'tls.key'), join(to, 'ticket.key')]) {
      assert.equal(statSync(name).mode & 0o777, 0o600, name);
    }
    const tls = TlsFolder.open(to);
    assert.deepEqual(tls.current.identity, { role: 'controller', name: 'c1' });
    assert.equal(tls.current.ticketSigner?.certificate.publicKey.asymmetricKeyType, 'ed25519');
    tls.close();
    assert.throws(() => TlsFolder.open(join(folder, 'nothing')), { code: 'security.files' });
  });

  it('are read again when they change, and not while they do not fit together', () => {
    const to = join(folder, 'h1');
    issueFolder(to, authority, { role: 'agent', name: 'h1', days: 1 });
    const problems: string[] = [];
    const tls = TlsFolder.open(to, { onProblem: (text) => problems.push(text) });
    const serial = () => tls.current.certificate?.serialNumber;
    const before = serial();
    const next = issue(authority, { role: 'agent', name: 'h1', days: 1 });
    writeFileSync(join(to, 'tls.key'), next.key);
    tls.reload();
    assert.equal(serial(), before);
    assert.match(problems.join(), /tls\.key is not the key of tls\.crt/);
    writeFileSync(join(to, 'tls.crt'), next.certificate);
    tls.reload();
    assert.equal(serial(), new X509Certificate(next.certificate).serialNumber);
    writeFileSync(join(to, 'denied'), 'not a certificate\n');
    tls.reload();
    assert.equal(problems.length, 2);
    tls.close();
  });

  it('have tokens beside them, of which a file keeps only hashes', () => {
    const good = createToken({ role: 'operator', name: 'ci', days: 1 });
    const late = createToken({ role: 'admin', name: 'old', days: 1, now: Date.now() - 9e7 });
    const file = join(folder, 'tokens');
    writeFileSync(file, `# tokens\n${good.line}\n${late.line}\n`);
    assert.ok(!good.line.includes(good.token));
    const tokens = TokenFile.open(file);
    assert.deepEqual(tokens.callerOf(good.token), { role: 'operator', name: 'ci' });
    assert.equal(tokens.callerOf(late.token), undefined);
    assert.equal(tokens.callerOf('ferry_x'), undefined);
    writeFileSync(file, '');
    assert.equal(tokens.callerOf(good.token, Date.now() + 5000), undefined, 'taken away');
    writeFileSync(file, good.line.replace('operator', 'agent'));
    assert.throws(() => TokenFile.open(file), { code: 'security.files' });
  });
});
