import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { loadedProfiles, readSecurityLabels, securityModules } from '@ferry/linux';

const SECURITY = 'sys/kernel/security';

describe('security labels', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'ferry-labels-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));

  function put(path: string, text: string): void {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }

  const hosts: [string, Record<string, string>, string[]][] = [
    ['none', { [`${SECURITY}/lsm`]: 'capability,landlock,yama' }, []],
    ['AppArmor', { [`${SECURITY}/lsm`]: 'capability,apparmor' }, ['apparmor']],
    ['SELinux', { [`${SECURITY}/lsm`]: 'lockdown,selinux,bpf\n' }, ['selinux']],
    ['none without securityfs', {}, []],
    [
      'AppArmor without securityfs',
      { 'proc/self/attr/apparmor/current': 'unconfined\n' },
      ['apparmor'],
    ],
    [
      'SELinux without securityfs',
      { 'proc/self/attr/current': 'system_u:system_r:init_t:s0\0' },
      ['selinux'],
    ],
  ];
  for (const [name, files, modules] of hosts) {
    it(`finds the modules of a host: ${name}`, () => {
      for (const [path, text] of Object.entries(files)) put(path, text);
      assert.deepEqual(securityModules(root), modules);
    });
  }

  const apparmor: [string, string][] = [
    ['docker-default (enforce)\n', 'docker-default'],
    ['/usr/sbin/nginx//worker (complain)\n', '/usr/sbin/nginx//worker'],
    ['my profile (enforce)\n', 'my profile'],
    ['b\u00fcro (enforce)\n', 'b\u00fcro'],
    ['unconfined\n', ''],
    ['runc (unconfined)\n', ''],
    ['', ''],
  ];
  for (const [text, label] of apparmor) {
    it(`reads the AppArmor label ${JSON.stringify(text)}`, () => {
      put('attr/apparmor/current', text);
      put('attr/current', 'another:module:says:this');
      const labels = readSecurityLabels(join(root, 'attr'), ['apparmor']);
      assert.deepEqual([labels.apparmor, labels.selinux], [label, '']);
    });
  }

  const selinux: [string, string][] = [
    ['system_u:system_r:container_t:s0:c1,c2\0', 'system_u:system_r:container_t:s0:c1,c2'],
    ['unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0', ''],
    ['system_u:system_r:spc_t:s0\0', ''],
    ['kernel\0', ''],
  ];
  for (const [text, label] of selinux) {
    it(`reads the SELinux context ${JSON.stringify(text)}`, () => {
      put('attr/current', text);
      put('attr/sockcreate', 'a:b:sock_t:s0\0');
      const labels = readSecurityLabels(join(root, 'attr'), ['selinux']);
      assert.deepEqual([labels.selinux, labels.selinuxSockcreate], [label, 'a:b:sock_t:s0']);
      assert.deepEqual([labels.selinuxExec, labels.apparmor], ['', '']);
    });
  }

  it('lists the profiles that are loaded, where they can be seen', () => {
    assert.equal(loadedProfiles(root), undefined);
    put(`${SECURITY}/apparmor/profiles`, 'docker-default (enforce)\n/bin/a//b (complain)\n');
    assert.ok(loadedProfiles(root)?.has('docker-default'));
    assert.ok(loadedProfiles(root)?.has('/bin/a//b'));
    assert.ok(!loadedProfiles(root)?.has('web'));
  });
});
