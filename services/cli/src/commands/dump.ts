import { dumpTree } from '@ferry/capture';
import { FerryError } from '@ferry/core';
import { Command } from 'commander';

interface Options {
  pid: string;
  out: string;
  leaveRunning?: boolean;
  json?: boolean;
}

export function build(): Command {
  return new Command()
    .description('Checkpoints the process tree below a PID into a directory of dump binaries.')
    .requiredOption('--pid <pid>', 'root of the tree')
    .requiredOption('--out <dir>', 'directory to make; where it exists it must be empty')
    .option('--leave-running', 'let the tree run on instead of ending it')
    .option('--json', 'print a JSON object')
    .addHelpText(
      'after',
      `
Examples:
  ferry dump --pid 4242 --out /var/tmp/app
  ferry dump --pid 4242 --out /var/tmp/app --leave-running --json
  /var/tmp/app/4242.dump --info          what a dump binary holds
  /var/tmp/app/4242.dump                 restores the tree; needs no Ferry`,
    )
    .action((options: Options) => {
      run(options);
    });
}

function run(options: Options): void {
  const pid = Number(options.pid);
  if (!Number.isInteger(pid) || pid <= 0) {
    throw new FerryError('cli.usage', `"${options.pid}" is not a PID`, {
      remedy: 'give a number, as ps shows it',
    });
  }
  const report = dumpTree(pid, options.out, {
    leaveRunning: options.leaveRunning ?? false,
    ...(process.stderr.isTTY && !options.json ? { progress: showProgress() } : {}),
  });
  if (options.json) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
    return;
  }
  for (const warning of report.warnings) process.stderr.write(`Warning: ${warning}\n`);
  const mib = (report.bytes / (1 << 20)).toFixed(1);
  process.stdout.write(
    `Dumped ${report.processes} processes (${report.threads} threads, ${report.descriptors} descriptors, ` +
      `${report.pages} pages, ${mib} MiB) to ${report.folder}; frozen for ${report.frozenMs.toFixed(1)} ms\n` +
      `Restore it with: ferry restore ${report.folder}\n`,
  );
}

function showProgress(): (progress: { bytesDone: number; bytesTotal: number }) => void {
  let shown = -1;
  return ({ bytesDone, bytesTotal }) => {
    const percent = Math.floor((bytesDone / Math.max(1, bytesTotal)) * 100);
    if (percent === shown) return;
    shown = percent;
    const bar = '#'.repeat(Math.floor(percent / 4)).padEnd(25, '.');
    process.stderr.write(`\r[${bar}] ${percent}%${percent === 100 ? '\n' : ''}`);
  };
}
