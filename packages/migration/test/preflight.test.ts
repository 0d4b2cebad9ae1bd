import { strict as assert } from 'node:assert';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ContainerDescription, HostFacts } from '@ferry/api';
import { instructionSets } from '../src/host-facts.js';
import { describeMappedFile, hostPathOf, missingFiles } from '../src/mapped-files.js';
import { type HostOffer, judge } from '../src/preflight.js';

const facts = HostFacts.fromPartial({
  architecture: 'x86_64',
  kernelRelease: '6.18.5',
  cpuModel: 'Some CPU',
  cpuFeatures: ['sse2', 'avx2'],
  runcVersion: '1.1.5',
});
const offer: HostOffer = {
  facts,
  resources: { memoryFreeBytes: 4n << 30n, diskFreeBytes: 4n << 30n, load: 0 },
  nameTaken: false,
  addressHolder: undefined,
  missingLayers: true,
  wrongFiles: [],
  profiles: undefined,
};
const wanted = ContainerDescription.fromPartial({
  container: { name: 'web', address: '10.77.1.10' },
  host: facts,
  cpuFeaturesUsed: ['avx2', 'sse2'],
  memoryBytes: 1n << 30n,
  lowerLayerBytes: 1n << 30n,
});

describe('migration: preflight', () => {
  const cases: [string, Partial<HostOffer>, Partial<ContainerDescription>, string[]][] = [
    ['takes what fits', {}, {}, []],
    ['takes a container that never ran', {}, { host: undefined, cpuFeaturesUsed: [] }, []],
    ['refuses another architecture', {}, host({ architecture: 'aarch64' }), ['host.architecture']],
    [
      'refuses an older kernel',
      { facts: { ...facts, kernelRelease: '6.7.1' } },
      {},
      ['host.kernel'],
    ],
    ['takes a newer kernel', { facts: { ...facts, kernelRelease: '7.0.0' } }, {}, []],
    ['refuses without runc', { facts: { ...facts, runcVersion: '' } }, {}, ['host.runc']],
    [
      'names each missing feature',
      {},
      { cpuFeaturesUsed: ['avx512f', 'sse2', 'vaes'] },
      ['cpu.feature', 'cpu.feature'],
    ],
    ['refuses without memory', resources({ memoryFreeBytes: 1n << 30n }), {}, ['host.memory']],
    ['refuses without disk', resources({ diskFreeBytes: 1n << 30n }), {}, ['host.disk']],
    [
      'counts only layers that are missing',
      { ...resources({ diskFreeBytes: 1n << 30n }), missingLayers: false },
      {},
      [],
    ],
    ['refuses a taken name', { nameTaken: true }, {}, ['name.taken']],
    ['refuses a taken address', { addressHolder: 'db' }, {}, ['address.taken']],
    [
      'names each file',
      {
        wrongFiles: [
          { path: '/a', reason: 'r' },
          { path: '/b', reason: 'r' },
        ],
      },
      {},
      ['file.missing', 'file.missing'],
    ],
    [
      'refuses labels without their modules',
      modules(),
      { apparmorProfiles: ['web', 'web//worker'], selinuxContexts: ['u:r:container_t:s0'] },
      ['host.selinux', 'host.apparmor'],
    ],
    [
      'names each profile that is not loaded',
      { ...modules('apparmor'), profiles: new Set(['web']) },
      { apparmorProfiles: ['web', 'web//worker', 'db'] },
      ['host.profile', 'host.profile'],
    ],
    [
      'takes what is bound where it can be bound',
      { ...modules('apparmor', 'selinux'), profiles: new Set(['web']) },
      { apparmorProfiles: ['web'], selinuxContexts: ['u:r:container_t:s0'] },
      [],
    ],
    [
      'leaves it to AppArmor where profiles cannot be seen',
      modules('apparmor'),
      { apparmorProfiles: ['web'] },
      [],
    ],
    [
      'passes on what blocks any move',
      {},
      { blockers: [{ code: 'file.tty', object: 'o', reason: 'r', remedy: 'm' }] },
      ['file.tty'],
    ],
  ];
  for (const [name, of, what, codes] of cases) {
    it(name, () => {
      const { problems } = judge({ ...wanted, ...what }, { ...offer, ...of });
      assert.deepEqual(
        problems.map(({ code }) => code),
        codes,
      );
      for (const problem of problems) assert(problem.remedy !== '' && problem.object !== '');
    });
  }

  it('warns of another kernel of the same age', () => {
    const { problems, warnings } = judge(wanted, {
      ...offer,
      facts: { ...facts, kernelRelease: '6.18.9' },
    });
    assert.deepEqual([problems.length, warnings.length], [0, 1]);
  });

  it('takes from /proc/cpuinfo what programs can use by themselves', () => {
    const flags = ['fpu', 'vme', 'sse2', 'avx512_vnni', 'pti', 'xsavec', 'tsc_adjust', 'sha_ni'];
    assert.deepEqual(instructionSets(flags), ['avx512_vnni', 'fpu', 'sha_ni', 'sse2', 'xsavec']);
  });
});

function host(change: Partial<HostFacts>): Partial<ContainerDescription> {
  return { host: { ...facts, ...change } };
}

function modules(...securityModules: string[]): Partial<HostOffer> {
  return { facts: { ...facts, securityModules } };
}

function resources(change: Partial<HostOffer['resources']>): Partial<HostOffer> {
  return { resources: { ...offer.resources, ...change } };
}

describe('migration: files that a container maps from its host', () => {
  const mounts = [
    { source: '/srv/data', destination: '/data' },
    { source: '/srv/deep', destination: '/data/deep' },
  ];
  it('are those below a bind mount, the longest that fits', () => {
    assert.equal(hostPathOf('/data/a/b', mounts), '/srv/data/a/b');
    assert.equal(hostPathOf('/data/deep/b', mounts), '/srv/deep/b');
    assert.equal(hostPathOf('/data', mounts), '/srv/data');
    assert.equal(hostPathOf('/database/x', mounts), undefined);
    assert.equal(hostPathOf('/usr/lib/x.so', mounts), undefined);
  });

  it('must have the very content', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ferry-files-'));
    try {
      const path = join(folder, 'lib.so');
      writeFileSync(path, 'first content');
      const file = await describeMappedFile(path);
      assert.deepEqual(await missingFiles([file]), []);
      writeFileSync(path, 'other content');
      assert.match((await missingFiles([file]))[0]?.reason ?? '', /not the same/);
      writeFileSync(path, 'longer content than before');
      assert.match((await missingFiles([file]))[0]?.reason ?? '', /26 bytes here and 13/);
      rmSync(path);
      assert.match((await missingFiles([file]))[0]?.reason ?? '', /does not exist/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
