// The tracer: holds one process tree for the agent that started it, and lets it go when that agent is gone.
import { collectSeldom, keepCode } from '@ferry/linux';
import { serveAgent } from '@ferry/migration';

if (process.send === undefined) {
  console.error('ferry-tracer is started by ferry-agent');
  process.exit(2);
}
keepCode();
collectSeldom();
serveAgent();
