import assert from 'node:assert/strict';
import { connectMigrationSource, type DestinationMessage, Security, signTicket } from '@ferry/api';
import { certificateFolder } from '../../../test/support/certificates.js';
import { type HostName, TwoAgents } from './support/two-agents.js';

describe('agent: a migration needs a ticket of the controller', function () {
  this.timeout(120_000);
  let two: TwoAgents;

  before(async () => {
    two = await TwoAgents.start();
    const rootfs = await two.rootfs(['/bin/dash', '/bin/sleep']);
    await two.run('h1', { name: 'shell', rootfs, args: ['/bin/dash', '-c', 'sleep 1000 & wait'] });
  });
  after(async () => {
    assert.deepEqual(await two.remove(), []);
  });

  async function receive(to: HostName, change: object): Promise<void> {
    const journey = { migrationId: 'm1', container: 'shell', epoch: 2n };
    const request = { ...two.receiveRequest(journey, 'h1', 'h2'), ...change };
    for await (const _ of two.at(to).client.receiveMigration(request));
  }

  /** Opens a session at the source as a program with this certificate would. */
  async function open(role: 'agent' | 'controller', name: string, fields: object): Promise<void> {
    const tls = certificateFolder(two.folder.path, { role, name });
    const security = Security.open({ tls });
    const client = connectMigrationSource(two.reach('h1').address, { security, node: 'h1' });
    const value = {
      ...{ migrationId: 'm1', container: 'shell', epoch: 2n, destinationNode: 'h2' },
      ...{ timeoutMs: 0, again: false, ...fields },
    };
    const message = { message: { $case: 'open', value } } as DestinationMessage;
    try {
      for await (const _ of client.session([message]));
    } finally {
      client.close();
      security.close();
    }
  }

  const ticketFor = (destinationNode: string) =>
    signTicket(
      two.controller.tls!.current,
      { migrationId: 'm1', container: 'shell', epoch: 2n, sourceNode: 'h1', destinationNode },
      Date.now(),
    );

  it('at the destination: none, another one, or one used before begins nothing', async () => {
    await assert.rejects(receive('h2', { ticket: undefined }), { code: 'ticket.missing' });
    await assert.rejects(receive('h2', { container: 'other' }), { code: 'ticket.other' });
    await assert.rejects(receive('h2', { epoch: 9n }), { code: 'ticket.other' });
    await assert.rejects(receive('h1', {}), { code: 'ticket.other' });
    assert.deepEqual(await two.states('h2'), {});
  });

  it('at the source: only the agent that the ticket names, and only with it', async () => {
    await assert.rejects(open('agent', 'h2', {}), { code: 'ticket.missing' });
    await assert.rejects(open('agent', 'h3', { ticket: ticketFor('h2') }), {
      code: 'security.denied',
    });
    const own = { destinationNode: 'h3', ticket: ticketFor('h2') };
    await assert.rejects(open('agent', 'h3', own), { code: 'ticket.other' });
    await assert.rejects(open('controller', 'test', { ticket: ticketFor('h2') }), {
      code: 'security.denied',
    });
    await assert.rejects(open('agent', 'h3', { again: true, destinationNode: 'h3' }), {
      code: 'migrate.unknown',
    });
  });

  it('and lets it go through, once; nobody else takes part in it', async () => {
    const ticket = ticketFor('h2');
    await receive('h2', { ticket });
    assert.deepEqual(await two.states('h1'), {});
    assert.equal((await two.states('h2')).shell, 'running');
    await assert.rejects(receive('h2', { ticket }), { code: 'ticket.used' });
    await two.stopAgent('h2');
    await two.startAgent('h2');
    await assert.rejects(receive('h2', { ticket }), { code: 'ticket.used' }, 'after a restart too');
    const tls = certificateFolder(two.folder.path, { role: 'agent', name: 'h3' });
    const security = Security.open({ tls });
    const client = connectMigrationSource(two.reach('h1').address, { security, node: 'h1' });
    const layer = async () => {
      for await (const _ of client.pullLayer({ migrationId: 'm1', digest: 'x' }));
    };
    await assert.rejects(layer, { code: 'security.denied', message: /goes to h2, not to h3/ });
    client.close();
    security.close();
  });
});
