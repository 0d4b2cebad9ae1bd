import { strict as assert } from 'node:assert';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import { Client, type Server } from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import {
  AgentServiceService,
  ClusterServiceService,
  ContainerSpec,
  connectAgent,
  connectCluster,
  connectNodeService,
  createAuthority,
  createServer,
  createToken,
  HostFacts,
  issue,
  issueFolder,
  MigrationSourceService,
  NodeServiceService,
  type Role,
  roles,
  ruleOf,
  Security,
  startServer,
  stopServer,
  unary,
} from '../../src/index.js';

const folder = mkdtempSync(join(tmpdir(), 'ferry-guard-'));
const authority = createAuthority({ name: 'Test CA', days: 1 });
const opened: Security[] = [];

function folderOf(role: Role, name: string, from = authority): string {
  const to = join(folder, `${role}-${name}-${opened.length}`);
  issueFolder(to, from, { role, name, days: 1 });
  return to;
}

function security(settings: Parameters<typeof Security.open>[0]): Security {
  const made = Security.open(settings, { pollMs: 20 });
  opened.push(made);
  return made;
}

function as(role: Role, name: string = role): Security {
  return security({ tls: folderOf(role, name) });
}

/** Every method of a service answers with one empty message. */
function addSilent(server: Server, service: Readonly<Record<string, object>>): void {
  const names = Object.keys(service);
  const shape = {
    requestStream: false,
    responseStream: false,
    responseSerialize: () => Buffer.alloc(0),
  };
  server.addService(
    Object.fromEntries(names.map((name) => [name, { ...service[name], ...shape }])) as never,
    Object.fromEntries(names.map((name) => [name, unary(() => ({}))])),
  );
}

/** Serves all services as one program. */
async function serve(own: Security): Promise<{ server: Server; address: string }> {
  const server = createServer(own);
  const services = [ClusterServiceService, NodeServiceService, AgentServiceService];
  for (const service of services) addSilent(server, service);
  server.addService(
    { stray: { ...ClusterServiceService.listNodes, path: '/ferry.cluster.v1.Stray/Call' } },
    { stray: unary(() => ({ nodes: [] })) },
  );
  new HealthImplementation({ '': 'SERVING' }).addToServer(server);
  return { server, address: `127.0.0.1:${await startServer(server, '127.0.0.1:0', own)}` };
}

/** Calls methods by their path with an empty request; gives the status code. */
function caller(address: string, own: Security, role: Role = 'controller') {
  const client = new Client(address, own.channelCredentials(address, { role }));
  const none = () => Buffer.alloc(0);
  const call = (path: string) =>
    new Promise<number>((resolve) => {
      const done = (error: { code?: number } | null) => resolve(error?.code ?? 0);
      const deadline = Date.now() + 10_000;
      client.makeUnaryRequest(path, none, none, {}, own.callMetadata(), { deadline }, done);
    });
  return { call, close: () => client.close() };
}

/** The same, once. */
async function status(...[address, own, path, role]: [string, Security, string, Role?]) {
  const { call, close } = caller(address, own, role);
  try {
    return await call(path);
  } finally {
    close();
  }
}

describe('api: who may call what', () => {
  let controller: { server: Server; address: string };
  const audit = join(folder, 'audit.log');
  const tls = folderOf('controller', 'c1');
  const tokenFile = join(folder, 'tokens');

  before(async () => {
    writeFileSync(tokenFile, '');
    controller = await serve(security({ tls, tokens: tokenFile, auditLog: audit }));
  });
  after(async () => {
    await stopServer(controller.server, 100);
    for (const each of opened) each.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it('has a rule for every method there is, and none lets everybody in', () => {
    const services = {
      ...{ ClusterServiceService, NodeServiceService, AgentServiceService, MigrationSourceService },
    };
    for (const [service, methods] of Object.entries(services)) {
      for (const [name, { path }] of Object.entries(methods)) {
        const rule = ruleOf(path);
        assert.ok(rule !== undefined, `${service}.${name} has no rule`);
        assert.ok(rule.roles !== 'anyone' && rule.roles.length > 0, `${service}.${name} is open`);
        const reads =
          /^(list|get|watch|describe|query|preflight|heartbeat|pull|fetchPages|containerLogs)/;
        assert.equal(rule.mutates, !reads.test(name), `${service}.${name} on record`);
      }
    }
    assert.equal(ruleOf('/ferry.cluster.v1.Stray/Call'), undefined);
  });

  it('lets each role call exactly what its rules say, over the wire', async () => {
    const own = Object.fromEntries(
      roles.map((role) => [role, caller(controller.address, as(role))]),
    );
    const methods = [ClusterServiceService, NodeServiceService, AgentServiceService];
    for (const { path } of methods.flatMap((service) => Object.values(service))) {
      const rule = ruleOf(path);
      for (const role of roles) {
        const code = await own[role]!.call(path);
        const allowed = rule?.roles !== 'anyone' && rule?.roles.includes(role);
        // An empty message names nobody, so that an agent is refused for speaking for another.
        const expected = allowed && rule?.own === undefined ? 0 : 7;
        assert.equal(code, expected, `${role} ${path}`);
      }
    }
    for (const { close } of Object.values(own)) close();
  });

  it('refuses a method without a rule, to an admin too', async () => {
    assert.equal(await status(controller.address, as('admin'), '/ferry.cluster.v1.Stray/Call'), 7);
  });

  it('lets nobody in who does not say who he is, but for health', async () => {
    const bare = folderOf('viewer', 'bare');
    for (const name of ['tls.crt', 'tls.key']) rmSync(join(bare, name));
    const anonymous = security({ tls: bare });
    const list = ClusterServiceService.listNodes.path;
    assert.equal(await status(controller.address, anonymous, list), 16);
    assert.equal(await status(controller.address, anonymous, '/grpc.health.v1.Health/Check'), 0);
    const plain = connectCluster(controller.address);
    await assert.rejects(plain.listNodes({}), { code: 'rpc.unavailable' });
    plain.close();
  });

  it('takes a token in place of a certificate, and does not pass it on', async () => {
    const { token, line } = createToken({ role: 'operator', name: 'ci', days: 1 });
    const secret = join(folder, 'secret');
    writeFileSync(secret, `${token}\n`);
    const bare = folderOf('viewer', 'token');
    for (const name of ['tls.crt', 'tls.key']) rmSync(join(bare, name));
    const own = security({ tls: bare, tokenFile: secret });
    const path = ClusterServiceService.cordonNode.path;
    assert.equal(await status(controller.address, own, path), 16, 'not known yet');
    writeFileSync(tokenFile, `${line}\n`);
    await new Promise((resolve) => setTimeout(resolve, 2100));
    assert.equal(await status(controller.address, own, path), 0);
    assert.equal(await status(controller.address, own, NodeServiceService.heartbeat.path), 7);
    const beyond = security({ tokenFile: secret });
    assert.throws(() => connectCluster('10.0.0.1:7460', { security: beyond }), {
      code: 'security.insecure',
    });
  });

  it('has an agent speak for its own node only', async () => {
    const client = connectNodeService(controller.address, { security: as('agent', 'h1') });
    const facts = HostFacts.create();
    const register = (name: string) => client.registerNode({ name, address: '127.0.0.1:1', facts });
    try {
      await register('h1');
      await assert.rejects(register('h2'), { code: 'security.denied', status: 7 });
    } finally {
      client.close();
    }
  });

  it('does not believe another authority, nor takes another program for the one it wants', async () => {
    const other = createAuthority({ name: 'Test CA', days: 1 });
    const stranger = security({ tls: folderOf('admin', 'eve', other) });
    const list = ClusterServiceService.listNodes.path;
    assert.equal(await status(controller.address, stranger, list), 14);
    const mixed = folderOf('admin', 'mixed', other);
    writeFileSync(join(mixed, 'ca.crt'), authority.certificate);
    assert.equal(await status(controller.address, security({ tls: mixed }), list), 16);
    assert.equal(await status(controller.address, as('admin'), list, 'agent'), 14);
    const agent = await serve(as('agent', 'h2'));
    try {
      const client = connectAgent(agent.address, { security: as('controller'), node: 'h1' });
      await assert.rejects(client.listContainers({}), /is agent\/h2, and agent\/h1 is needed/);
      client.close();
    } finally {
      await stopServer(agent.server, 100);
    }
  });

  it('speaks TLS 1.3 and nothing older', async () => {
    const [host = '', port = ''] = controller.address.split(':');
    const failure = await new Promise<string>((resolve) => {
      const options = {
        host,
        port: Number(port),
        rejectUnauthorized: false,
        ALPNProtocols: ['h2'],
      };
      const socket = tlsConnect({ ...options, maxVersion: 'TLSv1.2' }, () => resolve('connected'));
      socket.on('error', (error) => resolve(String(error)));
    });
    assert.match(failure, /protocol version/);
  });

  it('refuses a certificate that was revoked, on a connection that is open too', async () => {
    const client = connectCluster(controller.address, { security: as('viewer', 'lost') });
    try {
      await client.listNodes({});
      writeFileSync(join(tls, 'denied'), 'ferry://viewer/lost\n');
      await new Promise((resolve) => setTimeout(resolve, 100));
      await assert.rejects(client.listNodes({}), { code: 'security.unauthenticated', status: 16 });
      writeFileSync(join(tls, 'denied'), '');
      await new Promise((resolve) => setTimeout(resolve, 100));
      await client.listNodes({});
    } finally {
      client.close();
    }
  });

  it('goes over to new certificates, also of a new authority, without a restart', async () => {
    const next = createAuthority({ name: 'Next CA', days: 1 });
    const user = folderOf('viewer', 'u');
    const own = security({ tls: user });
    const list = ClusterServiceService.listNodes.path;
    const server = await serve(security({ tls: folderOf('controller', 'c2') }));
    const serverFolder = join(folder, `controller-c2-${opened.length - 1}`);
    try {
      assert.equal(await status(server.address, own, list), 0);
      const to = existsSync(serverFolder) ? serverFolder : opened.at(-1)!.tls!.path;
      for (const [path, role, name] of [
        [to, 'controller', 'c2'] as const,
        [user, 'viewer', 'u'] as const,
      ]) {
        issueFolder(path, next, { role, name, days: 1 });
        writeFileSync(join(path, 'ca.crt'), next.certificate);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
      assert.equal(await status(server.address, own, list), 0, 'both are new');
      assert.equal(await status(server.address, as('viewer', 'late'), list), 14, 'the old is out');
    } finally {
      await stopServer(server.server, 100);
    }
  });

  it('refuses a certificate whose time is over', async () => {
    const to = folderOf('viewer', 'past');
    const past = issue(authority, { role: 'viewer', name: 'past', days: 1, now: Date.now() - 2e8 });
    writeFileSync(join(to, 'tls.key'), past.key);
    writeFileSync(join(to, 'tls.crt'), past.certificate);
    const own = security({ tls: to });
    assert.equal(await status(controller.address, own, ClusterServiceService.listNodes.path), 16);
  });

  it('opens no port to the network without certificates, unless told to', async () => {
    const plain = security({});
    const listen = '0.0.0.0:0';
    await assert.rejects(async () => startServer(createServer(plain), listen, plain), {
      code: 'security.insecure',
      remedy: /--tls FOLDER/,
    });
    const told = security({ insecure: true });
    assert.ok(told.isOpen);
    const server = createServer(told);
    assert.ok((await startServer(server, listen, told)) > 0);
    await stopServer(server, 10);
    assert.throws(() => security({ insecure: true, tls }), { code: 'settings.invalid' });
    assert.throws(() => as('agent', 'h1').mustBe({ role: 'agent', name: 'h2' }), {
      code: 'security.files',
    });
  });

  it('puts every call that changes something on record, refused ones too', async () => {
    const before = readFileSync(audit, 'utf8').length;
    const client = connectCluster(controller.address, { security: as('viewer', 'eve') });
    const spec = ContainerSpec.fromPartial({ name: 'web', env: ['PASSWORD=secret'] });
    await assert.rejects(client.runContainer({ spec, node: 'h1', requestId: '' }), {
      code: 'security.denied',
    });
    client.close();
    const allowed = connectCluster(controller.address, { security: as('operator', 'ann') });
    await allowed.cordonNode({ node: 'h7' });
    await allowed.listNodes({});
    allowed.close();
    const text = readFileSync(audit, 'utf8').slice(before);
    const lines = text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.equal(lines.length, 2);
    assert.equal(lines[0].who, 'viewer/eve');
    assert.equal(lines[0].result, 'security.denied');
    assert.equal(lines[1].who, 'operator/ann');
    assert.deepEqual(lines[1].what, { node: 'h7' });
    assert.equal(lines[1].result, 'ok');
    assert.match(lines[1].method, /CordonNode$/);
    assert.ok(!text.includes('secret'));
    assert.equal(statSync(audit).mode & 0o777, 0o600);
  });
});
