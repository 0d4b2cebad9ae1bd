import type { Command } from 'commander';
import { commandTable } from './command-table.js';
import { exitCodes, reportError } from './errors.js';

/** Runs `ferry ARGS`.
 *  @returns the exit status (see errors.ts); never throws. */
export async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === '--version' || name === '-V') {
    process.stdout.write(`${ferryVersion}\n`);
    return exitCodes.ok;
  }
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    return await help(rest);
  }
  return await runCommand(name, rest);
}

const ferryVersion = '0.1.0';

async function help(args: readonly string[]): Promise<number> {
  const [name] = args;
  if (name !== undefined) return await runCommand(name, [...args.slice(1), '--help']);
  process.stdout.write(helpText());
  return exitCodes.ok;
}

function helpText(): string {
  const width = Math.max(...Object.keys(commandTable).map((name) => name.length));
  const lines = Object.entries(commandTable).map(
    ([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`,
  );
  return `Usage: ferry COMMAND [ARGUMENT...]

Moves running containers between hosts.

Commands:
${lines.join('\n')}

"ferry COMMAND --help" tells more, with examples.
Cluster commands take --controller HOST:PORT (or FERRY_CONTROLLER; 127.0.0.1:7460 otherwise), --tls FOLDER (or
FERRY_TLS) and --json.
Exit status: 0 done, 1 failed, 2 wrong usage, 3 the controller cannot be reached.
`;
}

/** Makes commander throw rather than exit, here and in subcommands, and say what to do about a
 *  mistake. */
function prepare(command: Command, path: string): void {
  command.exitOverride().showHelpAfterError(`Remedy: see "${path} --help"`);
  for (const child of command.commands) prepare(child, `${path} ${child.name()}`);
}

async function runCommand(name: string, args: readonly string[]): Promise<number> {
  const entry = Object.hasOwn(commandTable, name) ? commandTable[name] : undefined;
  if (entry === undefined) {
    process.stderr.write(`ferry: there is no command "${name}". Remedy: see "ferry --help".\n`);
    return exitCodes.usage;
  }
  try {
    const module = await entry.load(args);
    const command = module.build();
    command.name(`ferry ${name}`);
    prepare(command, `ferry ${name}`);
    await command.parseAsync([...args], { from: 'user' });
    return Number(process.exitCode ?? exitCodes.ok);
  } catch (error) {
    return reportError(error, args);
  }
}
