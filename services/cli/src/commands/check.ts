import { TreeCapture } from '@ferry/capture';
import { blockerText, FerryError } from '@ferry/core';
import { Command } from 'commander';
import { type CheckResult, checkHost } from '../host-check.js';

export function build(): Command {
  return new Command()
    .description(
      'Tells what this host allows; with --pid, what would keep that process from being carried.',
    )
    .option('--pid <pid>', 'look at the tree below this process, without disturbing it')
    .option('--json', 'print a JSON object')
    .addHelpText(
      'after',
      `
Exit status 0 when nothing is missing that Ferry needs, 1 otherwise.

Examples:
  ferry check
  ferry check --pid 4242`,
    )
    .action((options: { pid?: string; json?: boolean }) => {
      if (options.pid === undefined) showHost(options.json ?? false);
      else showProcess(options.pid, options.json ?? false);
    });
}

function showHost(json: boolean): void {
  const results = checkHost();
  const failed = results.some((result) => !result.ok && result.needed);
  if (json) process.stdout.write(`${JSON.stringify({ ok: !failed, checks: results })}\n`);
  else process.stdout.write(`${results.map(resultText).join('\n')}\n`);
  process.exitCode = failed ? 1 : 0;
}

function resultText(result: CheckResult): string {
  const mark = result.ok ? 'ok     ' : result.needed ? 'MISSING' : 'limited';
  const rest = result.ok
    ? ''
    : `\n          consequence: ${result.consequence}\n          remedy: ${result.remedy}`;
  return `${mark} ${result.name}: ${result.found}${rest}`;
}

function showProcess(text: string, json: boolean): void {
  const pid = Number(text);
  if (!Number.isInteger(pid) || pid <= 0) {
    throw new FerryError('cli.usage', `"${text}" is not a PID`, {
      remedy: 'give a number, as ps shows it',
    });
  }
  using capture = TreeCapture.open(pid);
  const report = capture.scan();
  process.exitCode = report.blockers.length === 0 ? 0 : 1;
  if (json) {
    const { blockers, processes } = report;
    const residentBytes = Number(report.residentBytes);
    process.stdout.write(
      `${JSON.stringify({ ok: blockers.length === 0, blockers, processes, residentBytes })}\n`,
    );
    return;
  }
  const mib = Number(report.residentBytes >> 20n);
  const lines = [`${report.processes.length} processes, ${mib} MiB resident`];
  if (report.blockers.length === 0) lines.push('Nothing keeps this tree from being carried.');
  for (const blocker of report.blockers) lines.push(`BLOCKED  ${blockerText(blocker)}`);
  process.stdout.write(`${lines.join('\n')}\n`);
}
