import type { FileObject, InetSocket, Process, TreeImage, Vma } from '@ferry/image';

/** The whole image as JSON: bigints as decimal strings, bytes as hexadecimal. */
export function imageJson(image: TreeImage): string {
  return JSON.stringify(
    image,
    (_, value: unknown) => {
      if (typeof value === 'bigint') return value.toString();
      if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
      const buffer = value as { type?: unknown; data?: unknown } | null;
      if (buffer?.type === 'Buffer' && Array.isArray(buffer.data)) {
        return Buffer.from(buffer.data as number[]).toString('hex');
      }
      return value;
    },
    2,
  );
}

/** The image for people. */
export function imageText(image: TreeImage, options: { maps: boolean }): string {
  const when = new Date(Number(image.realtimeNs / 1_000_000n)).toISOString();
  const lines = [
    `Image of ${image.processes.length} processes, made ${when} on kernel ${image.host?.kernelRelease ?? '?'} (${image.host?.architecture ?? '?'})`,
  ];
  const root = image.processes.find((process) => process.pid === image.rootPid);
  if (root !== undefined) lines.push('', ...treeLines(image, root, 0));
  for (const process of image.processes)
    lines.push('', ...processLines(image, process, options.maps));
  if (image.sharedMemory.length > 0) lines.push('', 'Shared memory:');
  for (const object of image.sharedMemory) {
    const pages = object.runs.reduce((sum, run) => sum + run.pages, 0n);
    lines.push(
      `  ${object.id}  ${object.kind} ${object.name}  ${object.size} bytes, ${pages} pages of content`,
    );
  }
  return lines.join('\n');
}

function treeLines(image: TreeImage, process: Process, depth: number): string[] {
  const own = `${'  '.repeat(depth)}${process.pid} ${process.comm}${process.state === 'running' ? '' : ` (${process.state})`}`;
  const children = image.processes.filter((p) => p.ppid === process.pid && p.pid !== image.rootPid);
  return [own, ...children.flatMap((child) => treeLines(image, child, depth + 1))];
}

function processLines(image: TreeImage, process: Process, maps: boolean): string[] {
  const head = `Process ${process.pid} (${process.comm}), group ${process.pgid}, session ${process.sid}, ${process.state}`;
  if (process.state === 'zombie') return [head];
  const vmas = process.mm?.vmas ?? [];
  const pages = (process.mm?.runs ?? []).reduce((sum, run) => sum + run.pages, 0n);
  const credentials = process.threads[0]?.credentials;
  return [
    head,
    `  program  ${process.mm?.exe?.path ?? '?'}`,
    `  cwd      ${process.fs?.cwd ?? '?'}${process.fs?.root === '/' ? '' : `, root ${process.fs?.root}`}`,
    `  user     ${credentials?.euid}:${credentials?.egid}`,
    `  threads  ${process.threads.map((thread) => `${thread.tid} ${thread.comm}`).join(', ')}`,
    `  memory   ${vmas.length} mappings, ${pages} private pages of content`,
    ...(maps ? vmas.map((vma) => `    ${vmaText(vma)}`) : []),
    ...process.descriptors.map((descriptor) => {
      const file = image.files.find((candidate) => candidate.id === descriptor.fileId);
      const flag = descriptor.closeOnExec ? ' (close-on-exec)' : '';
      return `  fd ${String(descriptor.fd).padEnd(5)} ${file === undefined ? '?' : fileText(file)}${flag}`;
    }),
  ];
}

function vmaText(vma: Vma): string {
  const prot = [4, 2, 1]
    .map((bit) => (vma.prot & bit ? { 4: 'x', 2: 'w', 1: 'r' }[bit] : '-'))
    .reverse()
    .join('');
  const what =
    vma.file?.path ?? (vma.kind === 'shared' ? `shared memory ${vma.sharedMemoryId}` : vma.kind);
  return `${vma.start.toString(16)}-${vma.end.toString(16)} ${prot}${vma.shared ? 's' : 'p'} ${what}`;
}

/** One open file description in a line. */
export function fileText(file: FileObject): string {
  const kind = file.kind;
  if (kind === undefined) return 'unknown';
  switch (kind.$case) {
    case 'regular':
    case 'directory':
    case 'fifo':
      return `${kind.$case} ${kind.value.file?.path ?? '?'} at ${file.position}`;
    case 'device':
      return `device ${kind.value.path}`;
    case 'pipe':
      return `pipe ${kind.value.pipeId}, ${kind.value.content.length} bytes in it`;
    case 'inet':
      return inetText(kind.value);
    case 'unix':
      return `UNIX socket ${kind.value.inode}, peer ${kind.value.peerInode}`;
    default:
      return kind.$case;
  }
}

function inetText(socket: InetSocket): string {
  const protocol = { 6: 'TCP', 17: 'UDP' }[socket.protocol] ?? `protocol ${socket.protocol}`;
  const address = (bytes: Uint8Array, port: number): string =>
    bytes.length === 4
      ? `${bytes.join('.')}:${port}`
      : `[${Buffer.from(bytes)
          .toString('hex')
          .replace(/(....)(?=.)/g, '$1:')}]:${port}`;
  const local = address(socket.localAddress, socket.localPort);
  const remote =
    socket.remotePort === 0 ? '' : ` - ${address(socket.remoteAddress, socket.remotePort)}`;
  return `${protocol} ${local}${remote}, state ${socket.state}`;
}
