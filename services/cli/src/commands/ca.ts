import { join, resolve } from 'node:path';
import {
  createToken,
  initAuthority,
  isRole,
  issueFolder,
  type Role,
  readAuthority,
  readIssued,
  roles,
} from '@ferry/api';
import { Command } from 'commander';
import { collect, parseCount, usage } from '../parse.js';

const examples = `
A folder with a certificate authority, and one folder per program made with it. Copy each to its host (tls.key is
secret), and give it to the program as --tls; ca.key stays where it is.

Examples:
  ferry ca init /root/ferry-ca
  ferry ca issue /root/ferry-ca --role controller --name c1 --out c1
  ferry ca issue /root/ferry-ca --role agent --name node1 --out node1      the node's name
  ferry ca issue /root/ferry-ca --role operator --name alice --out ~/.ferry
  ferry ca renew /root/ferry-ca node1            new key, same name; the program goes over to it by itself
  ferry ca token --role viewer --name dashboard --days 30   a line for --tokens of the controller

To revoke one, put a line such as ferry://agent/node1 into the file "denied" of every --tls folder.
`;

interface IssueArguments {
  readonly role: string;
  readonly name: string;
  readonly out: string;
  readonly host: readonly string[];
  readonly days: string;
}

/** ferry ca */
export function build(): Command {
  const command = new Command()
    .description('certificates for agents, controllers and users')
    .addHelpText('after', examples);
  command
    .command('init <folder>')
    .description('make a certificate authority')
    .option('--name <text>', 'its name in certificates', 'Ferry CA')
    .option('--days <n>', 'how long it counts', '3650')
    .action((folder: string, options: { name: string; days: string }) => {
      initAuthority(resolve(folder), { name: options.name, days: days(options.days) });
      say(
        `${join(resolve(folder), 'ca.key')} signs certificates: keep it secret, and keep it safe`,
      );
    });
  command
    .command('issue <ca-folder>')
    .description('make a key and a certificate for a program or a user')
    .requiredOption('--role <role>', roles.join(', '))
    .requiredOption('--name <name>', "a node's name, or a user's")
    .requiredOption('--out <folder>', 'where to put what --tls takes')
    .option('--host <name>', 'a host name or address, for clients that go by it', collect, [])
    .option('--days <n>', 'how long it counts', '90')
    .action((folder: string, options: IssueArguments) => {
      const { role, name, host: hosts } = options;
      const to = resolve(options.out);
      const asked = { role: roleOf(role), name, hosts, days: days(options.days) };
      issueFolder(to, readAuthority(resolve(folder)), asked);
      say(`${to} is for ${role}/${name}, until ${readIssued(to).until.toISOString()}`);
    });
  command
    .command('renew <ca-folder> <folder>')
    .description('replace the key and the certificate in a folder by new ones for the same name')
    .option('--days <n>', 'how long it counts (as the one before)')
    .action((folder: string, issued: string, options: { days?: string }) => {
      const to = resolve(issued);
      const { role, name, hosts, days: before } = readIssued(to);
      const span =
        options.days === undefined ? Math.max(1, Math.round(before)) : days(options.days);
      issueFolder(to, readAuthority(resolve(folder)), { role, name, hosts, days: span });
      say(`${to} is for ${role}/${name}, until ${readIssued(to).until.toISOString()}`);
    });
  command
    .command('token')
    .description('make a bearer token; prints it, and the line that has a controller accept it')
    .requiredOption('--role <role>', 'viewer, operator or admin')
    .requiredOption('--name <name>', 'whose it is')
    .option('--days <n>', 'how long it counts', '30')
    .action((options: { role: string; name: string; days: string }) => {
      const role = roleOf(options.role);
      if (role === 'agent' || role === 'controller') {
        throw usage('Agents and controllers go by certificates', 'issue one with "ferry ca issue"');
      }
      const made = createToken({ role, name: options.name, days: days(options.days) });
      process.stdout.write(`${made.token}\n`);
      process.stderr.write(`Add this line to the file that the controller has as --tokens:\n`);
      process.stderr.write(`${made.line}\n`);
    });
  return command;
}

function roleOf(text: string): Role {
  if (isRole(text)) return text;
  throw usage(`There is no role "${text}"`, `use one of ${roles.join(', ')}`);
}

function days(text: string): number {
  return parseCount(text, { what: 'Number of days', min: 1, max: 36_500 });
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
