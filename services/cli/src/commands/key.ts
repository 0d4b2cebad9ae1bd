import { Command } from 'commander';
import { keyFileOf, makeKeyFile } from '../key-file.js';

/** ferry key */
export function build(): Command {
  const command = new Command()
    .description('the key that checkpoints are encrypted with')
    .addHelpText(
      'after',
      `
Each checkpoint has a random key of its own; this one seals that. Nodes get its public half only. Without the key file
nobody can restore the checkpoints made with it: keep a copy in a safe place.

Examples:
  ferry key init                      ~/.config/ferry/checkpoint.key, which checkpoint and restore use unasked
  ferry key init /root/backup.key     then --key /root/backup.key, or FERRY_KEY`,
    );
  command
    .command('init [file]')
    .description('make a key')
    .action((file: string | undefined) => {
      const path = keyFileOf(file);
      makeKeyFile(path);
      process.stdout.write(`${path} opens checkpoints from now on: keep a copy of it\n`);
    });
  return command;
}
