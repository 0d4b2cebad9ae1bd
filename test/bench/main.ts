// The benchmarks. Usage: npm run bench [-- NAME... --json --mib SIZE,SIZE]
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { freeze } from './freeze.js';
import { stopCopy } from './stop-copy.js';

const { values, positionals } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    mib: { type: 'string', default: '64,1024,4096' },
  },
  allowPositionals: true,
});
const sizes = values.mib.split(',').map(Number);
const benches = {
  'stop-copy': (say: (line: string) => void) => stopCopy(sizes, say),
  freeze,
} as const;
type Name = keyof typeof benches;
const unknown = positionals.filter((name) => !(name in benches));
if (unknown.length > 0) {
  console.error(`There is no benchmark ${unknown.join(', ')}. There are: ${Object.keys(benches)}`);
  process.exit(2);
}
const chosen = (positionals.length > 0 ? positionals : Object.keys(benches)) as Name[];
const say = (line: string): void => console.error(`  ${line}`);

const results: Record<string, unknown> = {};
for (const name of chosen) {
  console.error(`${name}:`);
  const rows = await benches[name](say);
  results[name] = rows;
  if (!values.json) console.table(rows.map(rounded));
}
if (values.json) {
  const machine = { cpus: cpus().length, model: cpus()[0]?.model, node: process.version };
  console.log(JSON.stringify({ machine, ...results }));
}

/** Numbers for people: one decimal. */
function rounded(row: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(row).map(([key, value]) => [
      key,
      typeof value === 'number' ? Math.round(value * 10) / 10 : value,
    ]),
  );
}
