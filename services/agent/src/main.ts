// ferry-agent: one per host. Runs its containers, and moves them to and from other hosts.
import { errorText, FerryError } from '@ferry/core';
import { collectSeldom, compileAtOnce, keepCode } from '@ferry/linux';
import { startAgent } from './agent.js';
import { jsonLogger } from './logger.js';
import { parseSettings, usage } from './settings.js';

async function main(): Promise<void> {
  const settings = parseSettings(process.argv.slice(2));
  if (settings === 'help') {
    process.stdout.write(usage);
    return;
  }
  const logger = jsonLogger(settings.logLevel, (line) => process.stderr.write(line));
  process.on('unhandledRejection', (error) => {
    logger.error('a failure that nobody looked at', { error: errorText(error) });
  });
  keepCode();
  collectSeldom();
  compileAtOnce();
  const now = () => performance.now();
  const agent = await startAgent(settings, { logger, now });
  logger.info('listening', { address: agent.address, node: settings.nodeId, pid: process.pid });
  let stopping = false;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (stopping) process.exit(1);
      stopping = true;
      logger.info('stopping', { signal });
      agent.close().then(
        () => process.exit(0),
        (error: unknown) => {
          logger.error('stopping failed', { error: errorText(error) });
          process.exit(1);
        },
      );
    });
  }
}

main().catch((error: unknown) => {
  const remedy = error instanceof FerryError ? error.remedy : undefined;
  process.stderr.write(`ferry-agent: ${errorText(error)}\n`);
  if (remedy !== undefined) process.stderr.write(`  ${remedy}\n`);
  process.exit(error instanceof FerryError && error.code === 'settings.invalid' ? 2 : 1);
});
