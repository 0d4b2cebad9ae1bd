import { strict as assert } from 'node:assert';
import { ChannelCredentials, Client, Metadata } from '@grpc/grpc-js';
import { startControllerProgram, type TestController } from './support/controller.js';
import { startRedis, type TestRedis } from './support/redis.js';

const raw = (bytes: Buffer) => bytes;

/** As any gRPC client sees it that knows nothing of Ferry: bytes in, bytes out. */
describe('controller: health and reflection', () => {
  let redis: TestRedis;
  let controller: TestController;
  let client: Client;

  before(async () => {
    redis = await startRedis();
    controller = await startControllerProgram(redis.url);
    client = new Client(controller.address, ChannelCredentials.createInsecure());
  });
  after(async () => {
    client.close();
    await controller.end();
    await redis.stop();
  });

  for (const service of ['', 'ferry.cluster.v1.ClusterService', 'ferry.cluster.v1.NodeService']) {
    it(`serves "${service}"`, async () => {
      // HealthCheckRequest { service = 1 }, HealthCheckResponse { status = 1: SERVING = 1 }
      const request = Buffer.concat([Buffer.from([0x0a, service.length]), Buffer.from(service)]);
      const answer = await new Promise<Buffer | undefined>((resolve, reject) => {
        const path = '/grpc.health.v1.Health/Check';
        client.makeUnaryRequest(path, raw, raw, request, new Metadata(), (error, value) => {
          if (error === null) resolve(value);
          else reject(error);
        });
      });
      assert.deepEqual(answer, Buffer.from([0x08, 0x01]));
    });
  }

  it('lists its services and describes their messages', async () => {
    const path = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';
    const call = client.makeBidiStreamRequest(path, raw, raw, new Metadata());
    // ServerReflectionRequest { list_services = 7 }, then { file_containing_symbol = 4 }
    call.write(Buffer.from([0x3a, 1, 0x2a]));
    const symbol = 'ferry.cluster.v1.ClusterService';
    call.write(Buffer.concat([Buffer.from([0x22, symbol.length]), Buffer.from(symbol)]));
    call.end();
    const answers: string[] = [];
    for await (const answer of call) answers.push((answer as Buffer).toString('latin1'));
    assert.equal(answers.length, 2);
    assert.match(answers[0] ?? '', /ferry\.cluster\.v1\.ClusterService/);
    assert.match(answers[0] ?? '', /ferry\.cluster\.v1\.NodeService/);
    assert.match(answers[1] ?? '', /MigrateContainerRequest/);
    assert.match(answers[1] ?? '', /HostFacts/);
  });

  it('ends with status 0 on SIGTERM', async () => {
    const second = await startControllerProgram(redis.url);
    assert.equal(await second.end('SIGTERM'), 0);
    assert.ok(second.log.some((line) => line.includes('"msg":"ended"')));
    for (const line of second.log) JSON.parse(line);
  });

  it('ends with a reason when its port is taken', async () => {
    const taken = startControllerProgram(redis.url, { listen: controller.address });
    await assert.rejects(taken, /ended with 1.*Cannot listen.*choose another port/s);
  });
});
