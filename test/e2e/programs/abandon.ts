// Makes one of each thing that a run can leave behind, prints the run's id, and waits to be killed. With `guarded` it
// removes them when a signal ends it.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { TestNetwork } from '../../support/network.js';
import { removeOnSignal } from '../../support/on-signal.js';
import { makeRunFolder } from '../../support/run-folder.js';
import { run } from '../../support/shell.js';

const folder = await makeRunFolder();
if (process.argv[2] === 'guarded') removeOnSignal(folder.id);
const network = await TestNetwork.make(folder.id);
await network.addHost('h1', '10.77.0.11');

// A frozen process in a control group of its own, on a host with cgroup v2 alone or beside v1.
const unified = '/sys/fs/cgroup/unified';
const cgroup = join(existsSync(unified) ? unified : '/sys/fs/cgroup', `ferry-${folder.id}`, 'box');
mkdirSync(cgroup, { recursive: true });
const child = spawn('sleep', ['1000'], { env: {}, stdio: 'ignore' });
writeFileSync(join(cgroup, 'cgroup.procs'), String(child.pid));
writeFileSync(join(cgroup, 'cgroup.freeze'), '1');

// A folder that belongs to the machine, mounted inside the run's own.
const inside = join(folder.path, 'etc');
mkdirSync(inside);
await run('mount', ['--bind', '/etc', inside]);

console.log(folder.id);
setInterval(() => undefined, 1000);
