import assert from 'node:assert/strict';
import { TreeImage } from '@ferry/image';
import { instructionSets } from '@ferry/migration';
import { checkSameHost, type ThisHost } from '../src/same-host.js';

const code = { path: '/lib/libc.so.6', size: 1000n };
const cpuFlags = ['sse2', 'avx', 'avx2', 'avx512f', 'hypervisor'];

function dump(changes: { host?: object; file?: object; root?: string; own?: boolean } = {}) {
  return TreeImage.fromPartial({
    host: {
      ...{ architecture: 'x64', kernelRelease: '6.18.1', vdsoHash: 7n, cpuFlags },
      ...changes.host,
    },
    processes: [
      {
        fs: { root: changes.root ?? '/' },
        mm: { vmas: [{ kind: 'file', prot: 5, file: { ...code, ...changes.file } }] },
      },
    ],
    namespaces: changes.own ? [{ type: 'mnt' }] : [],
  });
}

const here: ThisHost = {
  architecture: 'x64',
  vdsoHash: 7n,
  instructionSets: instructionSets([...cpuFlags, 'amx_tile']),
  sizeOf: (path) => (path === code.path ? 1000 : undefined),
};

function refusal(image: TreeImage, changes: Partial<ThisHost> = {}): RegExp | string {
  try {
    checkSameHost(image, { ...here, ...changes }, instructionSets);
    return '';
  } catch (error) {
    const { code: kind, message } = error as Error & { code: string };
    assert.equal(kind, 'restore.host');
    return message;
  }
}

describe('a dump of another host', () => {
  it('is restored where everything that it relies on is', () => {
    assert.equal(refusal(dump()), '');
    assert.equal(refusal(dump({ host: { cpuFlags: ['sse2', 'lm'] } })), '', 'a newer processor');
  });

  it('is refused where the kernel has another vDSO', () => {
    assert.match(`${refusal(dump(), { vdsoHash: 8n })}`, /made on 6\.18\.1, whose vDSO/);
    assert.equal(refusal(dump({ host: { vdsoHash: 0n } })), '', 'a tree without one');
  });

  it('is refused where the processor lacks what programs may use', () => {
    const older = { instructionSets: ['sse2', 'avx'] };
    assert.match(`${refusal(dump(), older)}`, /lacks avx2, avx512f/);
    assert.match(`${refusal(dump(), { architecture: 'arm64' })}`, /this host is arm64/);
  });

  it('is refused where code that it has mapped is another one', () => {
    const name = /libc\.so\.6, whose code the tree has mapped/;
    assert.match(`${refusal(dump(), { sizeOf: () => 999 })}`, name);
    assert.match(`${refusal(dump(), { sizeOf: () => undefined })}`, /is not here/);
    assert.equal(refusal(dump({ own: true }), { sizeOf: () => 999 }), '', 'it brings its files');
    assert.equal(refusal(dump({ root: '/jail' }), { sizeOf: () => 999 }), '');
    assert.equal(refusal(dump({ file: { deleted: true } }), { sizeOf: () => 999 }), '');
  });
});
