import { strict as assert } from 'node:assert';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mappedInUpper } from '../src/mapped-files.js';
import { mountOverlay, unmount } from '../src/overlay.js';

const MAPPER = `
#include <stdio.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        int fd = open(argv[i], O_RDWR);
        char *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) return 1;
        at[0] = 1;
        close(fd);
    }
    puts("mapped");
    fflush(stdout);
    pause();
}`;

describe('container: files of a writable layer that are mapped', () => {
  let base: string;
  const children: ChildProcess[] = [];
  const at = (...path: string[]) => join(base, ...path);
  const inode = (...path: string[]) => statSync(at(...path), { bigint: true }).ino;
  before(async () => {
    base = mkdtempSync(join(tmpdir(), 'ferry-mapped-'));
    writeFileSync(at('mapper.c'), MAPPER);
    execFileSync('mkdir', ['-p', at('lower')]);
    writeFileSync(at('lower', 'below'), Buffer.alloc(4096));
    const places = { upper: at('upper'), work: at('work'), merged: at('merged') };
    await mountOverlay({ ...places, lower: [at('lower')] });
    execFileSync('cc', ['-static', '-o', at('merged', 'mapper'), at('mapper.c')]);
    for (const name of ['own', 'other', 'linked']) {
      writeFileSync(at('merged', name), Buffer.alloc(4096));
    }
  });
  after(() => {
    for (const child of children) child.kill('SIGKILL');
    unmount(at('merged'));
    rmSync(base, { recursive: true });
  });

  /** In a root of its own, as a container's processes are. */
  async function mapping(...names: string[]): Promise<number> {
    const child = spawn('chroot', [at('merged'), '/mapper', ...names.map((name) => `/${name}`)]);
    children.push(child);
    await once(child.stdout, 'data');
    return child.pid!;
  }

  const look = (...pids: number[]) =>
    mappedInUpper(pids, { upper: at('upper'), merged: at('merged') });

  it('are told by their inodes there, those from below too', async () => {
    const pid = await mapping('own', 'below');
    assert.deepEqual(look(pid), new Set([inode('upper', 'own'), inode('upper', 'below')]));
  });

  it('make all doubtful where one of them is known by another name', async () => {
    const pid = await mapping('linked');
    execFileSync('ln', [at('merged', 'linked'), at('merged', 'still-here')]);
    execFileSync('rm', [at('merged', 'linked')]);
    assert.equal(look(pid), 'any');
  });

  it('are none where nothing is mapped', () => assert.deepEqual(look(process.pid), new Set()));
});
