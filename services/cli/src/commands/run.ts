import { Command } from 'commander';

export function build(): Command {
  return new Command().description('Starts a container on a node.').argument('[program...]');
}
