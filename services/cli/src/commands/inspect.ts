import { readImageFolder } from '@ferry/image';
import { Command } from 'commander';
import { imageJson, imageText } from '../image-text.js';

export function build(): Command {
  return new Command()
    .description('Shows what an image directory holds: tree, mappings, descriptors, sockets.')
    .argument('<dir>', 'directory that "ferry dump" made')
    .option('--json', 'print everything as a JSON object; 64-bit numbers as decimal strings')
    .option('--maps', 'list every mapping')
    .addHelpText(
      'after',
      `
Examples:
  ferry inspect /var/tmp/app
  ferry inspect /var/tmp/app --maps
  ferry inspect /var/tmp/app --json | jq .processes[0].mm.vmas`,
    )
    .action((folder: string, options: { json?: boolean; maps?: boolean }) => {
      const image = readImageFolder(folder);
      const text = options.json
        ? imageJson(image)
        : imageText(image, { maps: options.maps ?? false });
      process.stdout.write(`${text}\n`);
    });
}
