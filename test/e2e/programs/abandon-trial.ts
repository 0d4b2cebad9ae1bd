// Begins a trial of test/objects with a process, a control group and a mount, prints its id, and waits to be killed.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Trial } from '../../objects/support/trial.js';
import { run } from '../../support/shell.js';

const trial = new Trial('abandoned');
const id = basename(trial.directory);
spawn('sleep', ['1000'], { env: { FERRY_TRIAL: trial.directory }, stdio: 'ignore' });
const unified = '/sys/fs/cgroup/unified';
mkdirSync(join(existsSync(unified) ? unified : '/sys/fs/cgroup', `${id}-source`));
const inside = join(trial.directory, 'etc');
mkdirSync(inside);
await run('mount', ['--bind', '/etc', inside]);

console.log(id);
setInterval(() => undefined, 1000);
