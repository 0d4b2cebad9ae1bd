import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readLink, readProc } from '@ferry/linux';

const READ = fileURLToPath(new URL('../src/read.ts', import.meta.url));
const RESERVED = '/proc/sys/net/ipv4/ip_local_reserved_ports';

describe('linux: files of /proc', () => {
  it('are read whole, settings among them', () => {
    for (const path of [
      '/proc/self/maps',
      '/proc/filesystems',
      '/proc/sys/kernel/ostype',
      '/proc/sys/kernel/printk',
      '/proc/sys/net/ipv4/tcp_rmem',
      '/proc/sys/net/ipv4/tcp_available_congestion_control',
    ]) {
      assert.equal(readProc(path), readFileSync(path, 'latin1'), path);
    }
  });

  it('are read whole where a setting is longer than most', () => {
    const ports = Array.from({ length: 4000 }, (_, i) => 20_000 + 2 * i).join(',');
    const script = `const fs = await import('node:fs');
      const { readProc } = await import(${JSON.stringify(READ)});
      fs.writeFileSync('${RESERVED}', '${ports}');
      process.stdout.write(readProc('${RESERVED}'));`;
    const node = ['--conditions', 'source', '--import', 'tsx', '--input-type=module'];
    const told = execFileSync('unshare', ['--net', process.execPath, ...node, '-e', script], {
      encoding: 'utf8',
      cwd: fileURLToPath(new URL('../../..', import.meta.url)),
    });
    assert.equal(told.trim(), ports);
  });

  it('are told where they lead', () => {
    assert.match(readLink('/proc/self/ns/net'), /^net:\[\d+\]$/);
    assert.equal(readLink('/proc/self/exe'), process.execPath);
  });

  it('that are not there are an error with their path', () => {
    assert.throws(() => readProc('/proc/sys/no/such'), /\/proc\/sys\/no\/such/);
  });
});
