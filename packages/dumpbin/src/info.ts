import type { Process, TreeImage } from '@ferry/image';

/** What `PID.dump --info` prints. */
export function infoText(process: Process, image: TreeImage): string {
  const pages = (process.mm?.runs ?? []).reduce((sum, run) => sum + run.pages, 0n);
  const when = new Date(Number(image.realtimeNs / 1_000_000n)).toISOString();
  const lines = [
    `Ferry dump binary of process ${process.pid} (${process.comm}), format ${image.format}`,
    `dumped      ${when}, kernel ${image.host?.kernelRelease ?? '?'}, ${image.host?.architecture ?? '?'}`,
    `program     ${process.mm?.exe?.path ?? '?'}`,
    `memory      ${process.mm?.vmas.length ?? 0} mappings, ${pages} pages of content`,
    `threads     ${process.threads.length}`,
    `descriptors ${process.descriptors.length}`,
  ];
  if (process.pid === image.rootPid) {
    lines.push(
      `tree        ${image.processes.length} processes: ${image.processes.map((p) => `${p.pid} (${p.comm})`).join(', ')}`,
    );
    lines.push('execute this file to restore the tree');
  } else {
    lines.push(`tree        execute ${image.rootPid}.dump to restore the tree it belongs to`);
  }
  return `${lines.join('\n')}\n`;
}
