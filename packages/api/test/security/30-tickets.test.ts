import { strict as assert } from 'node:assert';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  checkTicket,
  createAuthority,
  issueFolder,
  type Role,
  signTicket,
  TlsFolder,
  ticketLifeMs,
} from '../../src/index.js';
import { parseDenyList } from '../../src/security/deny-list.js';

describe('api: tickets', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-tickets-'));
  const authority = createAuthority({ name: 'CA', days: 1 });
  const now = Date.now();
  const journey = {
    ...{ migrationId: 'm1', container: 'web', sourceNode: 'h1', destinationNode: 'h2', epoch: 7n },
  };
  const material = (role: Role, from = authority) => {
    const to = join(folder, `${role}-${Math.random()}`);
    issueFolder(to, from, { role, name: 'x', days: 1 });
    const tls = TlsFolder.open(to);
    tls.close();
    return tls.current;
  };
  const controller = material('controller');
  const agent = material('agent');
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('let exactly one migration begin, for some minutes', () => {
    const ticket = signTicket(controller, journey, now);
    const { nonce, untilMs } = checkTicket(agent, ticket, { journey, now });
    assert.match(nonce, /^[0-9a-f]{32}$/);
    assert.ok(untilMs > now && untilMs < now + 2 * ticketLifeMs);
    const again = checkTicket(agent, signTicket(controller, journey, now), { journey, now });
    assert.notEqual(again.nonce, nonce, 'each has a number of its own');
    const others = {
      ...{ migrationId: 'm2', container: 'db', sourceNode: 'h3', destinationNode: 'h1', epoch: 8n },
    };
    for (const [field, value] of Object.entries(others)) {
      const other = { ...journey, [field]: value };
      assert.throws(() => checkTicket(agent, ticket, { journey: other, now }), {
        code: 'ticket.other',
        message: new RegExp(field),
      });
    }
    for (const time of [now - 6e5, now + 6e5, now + 2 ** 40]) {
      assert.throws(
        () => checkTicket(agent, ticket, { journey, now: time }),
        (error) => /^ticket\.(expired|invalid)$/.test((error as { code: string }).code),
      );
    }
  });

  it('are signed by a controller of this cluster that was not revoked, and by nobody else', () => {
    const check = (ticket: Buffer | undefined, own = agent) =>
      checkTicket(own, ticket, { journey, now });
    assert.throws(() => check(undefined), { code: 'ticket.missing' });
    assert.throws(() => check(Buffer.alloc(0)), { code: 'ticket.missing' });
    for (const role of ['agent', 'admin', 'operator', 'viewer'] as const) {
      assert.throws(() => check(signTicket(material(role), journey, now)), /not a controller/);
    }
    const foreign = material('controller', createAuthority({ name: 'CA', days: 1 }));
    assert.throws(() => check(signTicket(foreign, journey, now)), /not of this cluster/);
    const denied = parseDenyList(controller.ticketSigner!.certificate.fingerprint256);
    const ticket = signTicket(controller, journey, now);
    assert.throws(() => check(ticket, { ...agent, denied }), /revoked/);
  });

  it('cannot be changed in a single bit', () => {
    const ticket = signTicket(controller, journey, now);
    for (let byte = 0; byte < ticket.length; byte += 1) {
      const changed = Buffer.from(ticket);
      changed[byte]! ^= 1 << (byte % 8);
      let nonce = '';
      try {
        ({ nonce } = checkTicket(agent, changed, { journey, now }));
      } catch (error) {
        assert.match((error as { code: string }).code, /^ticket\./, `byte ${byte}: ${error}`);
      }
      assert.equal(nonce, '', `byte ${byte}`);
    }
    assert.throws(() => checkTicket(agent, Buffer.alloc(9000), { journey, now }), /too large/);
  });
});
