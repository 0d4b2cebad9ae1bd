import { errorText } from '@ferry/core';
import { type RunningController, startController } from './controller.js';
import { jsonLogger, type Logger } from './logger.js';
import { parseSettings, type Settings, usage } from './settings.js';

/** A shutdown that takes longer is cut short: whoever takes the work over is not helped by
 *  waiting. */
const shutdownMs = 10_000;

async function main(): Promise<void> {
  let settings: Settings | 'help';
  try {
    settings = parseSettings(process.argv.slice(2), process.env);
    // What this process starts, and whoever looks at its environment later, needs it no more.
    delete process.env.FERRY_REDIS_PASSWORD;
  } catch (error) {
    const remedy = (error as { remedy?: string }).remedy ?? '';
    process.stderr.write(`ferry-controller: ${errorText(error)}. Remedy: ${remedy}\n`);
    process.exitCode = 2;
    return;
  }
  if (settings === 'help') {
    process.stdout.write(usage);
    return;
  }
  const logger = jsonLogger(settings.logLevel, (line) => process.stderr.write(line));
  try {
    const controller = await startController(settings, { logger, now: Date.now });
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.once(signal, () => void shutDown(controller, logger, signal));
    }
    logger.info('listening', { address: controller.address, pid: process.pid });
  } catch (error) {
    const { code, remedy } = error as { code?: unknown; remedy?: unknown };
    logger.error('did not start', { error: errorText(error), code, remedy });
    process.exit(1);
  }
}

async function shutDown(controller: RunningController, logger: Logger, signal: string) {
  logger.info('shutting down', { signal });
  setTimeout(() => {
    logger.error('shutdown takes too long');
    process.exit(1);
  }, shutdownMs).unref();
  await controller.close().catch((error: unknown) => {
    logger.error('shutdown', { error: errorText(error) });
  });
  logger.info('ended');
  process.exit(0);
}

await main();
