import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Cluster } from '../support/cluster.js';
import { compile } from './stop-copy.js';
import { mkdirSync } from 'node:fs';
import { sleep } from '../support/shell.js';
process.execPath = '/tmp/nodeprof';
const cluster = await Cluster.start({ hosts: ['h1', 'h2'], progress: () => {} });
const cpu = (pid: number) => { const s = readFileSync(`/proc/${pid}/stat`,'utf8').split(') ')[1]!.split(' '); return [Number(s[11])/100, Number(s[12])/100]; };
const threads = (pid:number) => '';
try {
  const rootfs = join(cluster.folder.path, 'rootfs');
  for (const n of ['proc','sys','dev','tmp']) mkdirSync(join(rootfs,n),{recursive:true});
  await compile('memory', join(rootfs,'memory'));
  for (const mib of [1024, 1024]) {
    const name = `m${mib}${Math.random().toString(36).slice(2,6)}`;
    await cluster.ferryJson(['run', name, '--node','h1','--rootfs',rootfs,'--','/memory',String(mib)]);
    for (;;) { if ((await cluster.ferry(['logs',name])).stdout.includes('ready')) break; await sleep(200); }
    const [a,b] = [cluster.pidOf('h1'), cluster.pidOf('h2')];
    const [c0,d0] = [cpu(a),cpu(b)];
    const r: any = await cluster.ferryJson(['migrate', name, '--to','h2'], 300000);
    const [c1,d1] = [cpu(a),cpu(b)];
    const m = r.operation.migration;
    console.log(mib, m.downtime_ms|0, m.total_ms|0, m.parts.map((p:any)=>`${p.name} ${p.ms|0}`).join(' '), 'MB/s pages', (m.bytes_raw/1e3/m.parts.find((p:any)=>p.name==='pages').ms)|0, 'src cpu u/s', (c1[0]!-c0[0]!).toFixed(2), (c1[1]!-c0[1]!).toFixed(2), 'dst', (d1[0]!-d0[0]!).toFixed(2),(d1[1]!-d0[1]!).toFixed(2));
    await cluster.ferryJson(['stop', name]);
  }
} finally { await cluster.shutDown(); await cluster.remove(); }
