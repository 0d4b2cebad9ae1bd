import { existsSync } from 'node:fs';
import {
  chmod,
  copyFile,
  lstat,
  lutimes,
  mkdir,
  open,
  readdir,
  readlink,
  realpath,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FerryError } from '@ferry/core';
import { ELF_HEAD_BYTES, readElfHead } from './elf.js';
import { runCommand } from './run-command.js';
import type { ProgramImage } from './spec.js';

/** Folders that a root file system needs for the runtime's mounts, and that programs expect. */
const FOLDERS: readonly { path: string; mode: number }[] = [
  ...[
    'proc',
    'sys',
    'dev',
    'etc',
    'run',
    'usr',
    'var',
    'var/lib',
    'var/log',
    'home',
    'srv',
    'mnt',
  ].map((path) => ({ path, mode: 0o755 })),
  { path: 'root', mode: 0o700 },
  { path: 'tmp', mode: 0o1777 },
  { path: 'var/tmp', mode: 0o1777 },
];

const FILES: readonly { path: string; content: string }[] = [
  {
    path: 'etc/passwd',
    content:
      'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n' +
      'nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n',
  },
  {
    path: 'etc/group',
    content: 'root:x:0:\ntty:x:5:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n',
  },
  { path: 'etc/hosts', content: '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' },
  { path: 'etc/nsswitch.conf', content: 'passwd: files\ngroup: files\nhosts: files dns\n' },
  { path: 'etc/resolv.conf', content: '' },
];

/** Folders that Debian, since merged /usr, keeps as links. */
const MERGED = ['bin', 'sbin', 'lib', 'lib64', 'lib32', 'libx32'];
/** For libraries, which name none. */
const DEFAULT_LINKER = '/lib64/ld-linux-x86-64.so.2';
const UNWINDER = '/lib/x86_64-linux-gnu/libgcc_s.so.1';
const LINKERS_AT_ONCE = 8;

/** Makes a root file system in the empty folder `tree` from programs of this host: the programs,
 *  their shared libraries and interpreters, and what else the image names. Times are the host
 *  files' own, or 0, so that the same host files give the same tree.
 *  @throws FerryError container.image when a program or file does not exist */
export async function buildProgramRootfs(
  tree: string,
  image: ProgramImage,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const { signal } = options;
  for (const name of MERGED) {
    const link = await readlink(`/${name}`).catch(() => undefined);
    if (link === undefined) continue;
    await mkdir(join(tree, link), { recursive: true });
    await symlink(link.replace(/^\//, ''), join(tree, name));
  }
  for (const { path, mode } of FOLDERS) {
    await mkdir(join(tree, path), { recursive: true });
    await chmod(join(tree, path), mode);
  }
  for (const { path, content } of FILES) await writeFile(join(tree, path), content);
  const builder = new Builder(tree, signal);
  for (const program of image.programs) await builder.program(program);
  for (const { from, to } of image.copy) await builder.copy(from, to ?? from);
  await builder.libraries();
  for (const { path, content, mode } of image.files) {
    const target = await builder.place(path);
    await writeFile(target, content);
    await chmod(target, mode);
  }
  for (const { path, target } of image.links) await symlink(target, await builder.place(path));
  await settleTimes(tree, builder.copied);
}

class Builder {
  readonly #tree: string;
  readonly #signal: AbortSignal | undefined;
  /** ELF files of the host whose libraries are wanted, each with its dynamic linker. */
  readonly #elf = new Map<string, string>();
  /** Paths in the tree that carry the host file's own time. */
  readonly copied = new Set<string>();

  constructor(tree: string, signal: AbortSignal | undefined) {
    this.#tree = tree;
    this.#signal = signal;
  }

  /** A program, and if it is a script its interpreter. */
  async program(path: string): Promise<void> {
    const head = await readHead(path);
    await this.#file(path, path);
    const script = /^#![ \t]*(\/\S+)(?:[ \t]+(\S+))?/.exec(head.toString('latin1'));
    if (script?.[1] === undefined) return;
    await this.program(script[1]);
    if (script[1].endsWith('/env') && script[2] !== undefined) {
      await this.program(await findProgram(script[2]));
    }
  }

  /** A file, link or folder of the host, with all below it. */
  async copy(from: string, to: string): Promise<void> {
    this.#signal?.throwIfAborted();
    const about = await lstat(from).catch((cause: unknown) => {
      throw missing(from, cause);
    });
    if (about.isSymbolicLink()) {
      const target = await this.place(to);
      if (!existsSync(target)) await symlink(await readlink(from), target);
      const real = await realpath(from).catch(() => undefined);
      if (real !== undefined && (await stat(real)).isFile() && !real.startsWith('/etc/')) {
        await this.#file(real, real);
      }
    } else if (about.isDirectory()) {
      const target = await this.place(to);
      await mkdir(target, { recursive: true });
      await chmod(target, about.mode & 0o7777);
      for (const name of (await readdir(from)).sort())
        await this.copy(join(from, name), join(to, name));
    } else if (about.isFile()) {
      await this.#file(from, to);
    }
  }

  /** Copies the libraries of every ELF file seen so far, at the paths by which the dynamic linker
   *  finds them. */
  async libraries(): Promise<void> {
    const paths = new Set<string>();
    const files = [...this.#elf];
    for (let at = 0; at < files.length; at += LINKERS_AT_ONCE) {
      const some = files.slice(at, at + LINKERS_AT_ONCE);
      for (const list of await Promise.all(some.map((file) => this.#librariesOf(file)))) {
        for (const path of list) paths.add(path);
      }
    }
    for (const path of [...paths].sort()) await this.#file(path, path);
    // glibc loads this one by name when a thread is cancelled or exits.
    if (paths.size > 0 && existsSync(UNWINDER)) await this.#file(UNWINDER, UNWINDER);
  }

  /** Asks the dynamic linker itself, which runs nothing of the file then (ld.so(8), --list). */
  async #librariesOf([file, linker]: [string, string]): Promise<string[]> {
    const result = await runCommand(linker, ['--list', file], { signal: this.#signal });
    const text = result.stdout.toString('utf8');
    const lost = /^\s*(\S+) => not found$/m.exec(text)?.[1];
    if (lost !== undefined) throw missing(`Library ${lost} of ${file}`, undefined);
    const found = [...text.matchAll(/^\s+(?:\S+ => )?(\/\S+) \(0x/gm)].map(
      (match) => match[1] as string,
    );
    return found.length === 0 ? found : [linker, ...found];
  }

  /** Where `path` of the container lies in the tree; its folders are made. Links in the tree are
   *  our own. */
  async place(path: string): Promise<string> {
    const folder = join(this.#tree, dirname(path));
    await mkdir(folder, { recursive: true });
    const real = await realpath(folder);
    if (real !== this.#tree && !real.startsWith(`${this.#tree}/`)) {
      throw new FerryError('container.image', `${path} would lie outside the root file system`);
    }
    return join(real, path.slice(path.lastIndexOf('/') + 1));
  }

  async #file(from: string, to: string): Promise<void> {
    const target = await this.place(to);
    if (this.copied.has(target)) return;
    const about = await stat(from).catch((cause: unknown) => {
      throw missing(from, cause);
    });
    await copyFile(from, target);
    await chmod(target, about.mode & 0o7777);
    await utimes(target, about.atime, about.mtime);
    this.copied.add(target);
    const elf = readElfHead(await readHead(from));
    if (elf?.dynamic) this.#elf.set(from, elf.interpreter ?? DEFAULT_LINKER);
  }
}

async function readHead(path: string): Promise<Buffer> {
  try {
    const file = await open(path, 'r');
    try {
      const { bytesRead, buffer } = await file.read(
        Buffer.alloc(ELF_HEAD_BYTES),
        0,
        ELF_HEAD_BYTES,
        0,
      );
      return buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw missing(path, cause);
  }
}

async function findProgram(name: string): Promise<string> {
  for (const folder of ['/usr/local/bin', '/usr/bin', '/bin', '/usr/sbin', '/sbin']) {
    if (existsSync(join(folder, name))) return join(folder, name);
  }
  throw missing(name, undefined);
}

/** Everything that we made ourselves gets the time 0. */
async function settleTimes(folder: string, copied: ReadonlySet<string>): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await settleTimes(path, copied);
    else if (entry.isFile() && !copied.has(path)) await utimes(path, 0, 0);
    else if (entry.isSymbolicLink()) await lutimes(path, 0, 0);
  }
  await utimes(folder, 0, 0);
}

function missing(path: string, cause: unknown): FerryError {
  return new FerryError(
    'container.image',
    `${path} is needed for the root file system and is not there`,
    {
      cause,
      remedy: 'install it on this host, or correct the image of the spec',
    },
  );
}
