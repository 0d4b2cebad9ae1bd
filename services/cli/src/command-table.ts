import type { Command } from 'commander';

/** What a file in `commands/` exports: the commander command, ready to parse its own arguments.
 *  It may import what it needs at the top, since it is loaded only when it is the one to run. */
export interface CommandModule {
  readonly build: () => Command;
}

interface CommandEntry {
  readonly summary: string;
  readonly load: (args: readonly string[]) => Promise<CommandModule>;
}

/** Every command of `ferry`, in the order of `ferry --help`. */
export const commandTable: Readonly<Record<string, CommandEntry>> = {
  run: { summary: 'start a container on a node', load: () => import('./commands/run.js') },
  ps: { summary: 'list containers', load: () => import('./commands/ps.js') },
  logs: { summary: 'print what a container wrote', load: () => import('./commands/logs.js') },
  stop: { summary: 'end a container and remove it', load: () => import('./commands/stop.js') },
  migrate: {
    summary: 'move a running container to another node',
    load: () => import('./commands/migrate.js'),
  },
  checkpoint: {
    summary: 'save a container in a file',
    load: () => import('./commands/checkpoint.js'),
  },
  node: {
    summary: 'list, cordon, uncordon and drain nodes',
    load: () => import('./commands/node.js'),
  },
  op: {
    summary: 'list, show, watch and cancel operations',
    load: () => import('./commands/op.js'),
  },
  resolve: {
    summary: 'decide where a container runs whose migration is in doubt',
    load: () => import('./commands/resolve.js'),
  },
  dump: {
    summary: 'checkpoint a process tree into a directory of dump binaries',
    load: () => import('./commands/dump.js'),
  },
  restore: {
    summary: 'start a checkpointed tree or container again',
    load: () => import('./commands/restore.js'),
  },
  inspect: {
    summary: 'show what an image holds',
    load: () => import('./commands/inspect.js'),
  },
  key: {
    summary: 'make the key that checkpoints are encrypted with',
    load: () => import('./commands/key.js'),
  },
  ca: {
    summary: 'make certificates and tokens for the cluster',
    load: () => import('./commands/ca.js'),
  },
  check: {
    summary: 'what this host allows, and what a process would be refused for',
    load: () => import('./commands/check.js'),
  },
};
