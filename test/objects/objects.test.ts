import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { COLUMNS } from './coverage/render.js';
import { type Result, readResults, writeResults } from './coverage/results.js';
import { runs32BitPrograms } from './support/compat.js';
import { contained, containerMove } from './support/container.js';
import { engineExists } from './support/engine.js';
import { canBeSabotaged, flavours as plainFlavours, type Verdict } from './support/flavours.js';
import { Jobs } from './support/jobs.js';
import { twoPhase } from './support/two-phase.js';
import { type ObjectProgram, programs } from './table.js';

// FERRY_OBJECTS=name,name          only these programs
// FERRY_OBJECTS_FLAVOURS=tree,...  only these flavours
// FERRY_OBJECTS_JOBS=n             how many run at a time (3)
// FERRY_OBJECTS_CONTAINER=0|1      not in runc containers | also in containers that nobody touches
// FERRY_OBJECTS_RESULTS=file       note there what each trial found, for docs/coverage.md
// FERRY_OBJECTS_COVERAGE=1          only the trials that docs/coverage.md shows and that are not noted there yet
// FERRY_OBJECTS_OUTSIDE=ignore     believe the programs alone, do not compare /proc
const flavours = { ...plainFlavours, contained, containerMove, twoPhase };
type FlavourName = keyof typeof flavours;
const withContainers = process.env.FERRY_OBJECTS_CONTAINER !== '0';
const withUntouchedContainers = process.env.FERRY_OBJECTS_CONTAINER === '1';
const chosen = list(process.env.FERRY_OBJECTS);
const chosenFlavours = list(process.env.FERRY_OBJECTS_FLAVOURS);
/** Whether the programs pass when Ferry does nothing to them, and fail when their object is broken: a change to a program wants
 *  that, one to Ferry does not. */
const withoutFerry =
  process.env.FERRY_LONG !== undefined || (chosen ?? chosenFlavours) !== undefined;
const jobs = new Jobs<Verdict>(Number(process.env.FERRY_OBJECTS_JOBS ?? 3));
const resultsFile = process.env.FERRY_OBJECTS_RESULTS;
const known = resultsFile === undefined ? {} : readResults(resultsFile);
const shown = new Set<string>([...COLUMNS.map(([, flavour]) => flavour), 'carriedOrRefused']);
const isForCoverage = process.env.FERRY_OBJECTS_COVERAGE === '1';
const testTimeoutMs = 120_000;

const titles: Readonly<Record<FlavourName, string>> = {
  unmoved: 'passes when nobody touches it',
  sabotage: 'fails when its object is broken',
  frozen: 'passes when it is stopped and let go',
  rollback: 'does not notice a dump that leaves it running',
  tree: 'passes after dump and restore',
  contained: 'passes in a container when nobody touches it',
  containerMove: 'passes after a move from one container into another',
  twoPhase: 'passes after a move in two phases, prepared while it starts',
  carriedOrRefused: 'is carried, or refused by name and left alone',
};

function list(value: string | undefined): string[] | undefined {
  return value === undefined || value === '' ? undefined : value.split(',');
}

function isToBeShown({ name }: ObjectProgram, flavour: FlavourName): boolean {
  return shown.has(flavour) && known[name]?.[flavour] === undefined;
}

function isChosen(program: ObjectProgram): boolean {
  return chosen?.includes(program.name) ?? program.onlyByName === undefined;
}

function flavoursOf(program: ObjectProgram): FlavourName[] {
  const own: FlavourName[] = [];
  if (withoutFerry) own.push('unmoved', 'frozen');
  if (withoutFerry && canBeSabotaged(program)) own.push('sabotage');
  const isContained = withContainers && program.hostOnly === undefined;
  if (isContained && withUntouchedContainers) own.push('contained');
  if (engineExists()) {
    own.push(...(program.later === undefined ? (['rollback', 'tree'] as const) : []));
    if (program.later !== undefined) own.push('carriedOrRefused');
    else if (isContained) own.push('containerMove', 'twoPhase');
  }
  const missing: Readonly<Record<string, string>> = program.missing ?? {};
  return own
    .filter((name) =>
      chosenFlavours === undefined ? missing[name] === undefined : chosenFlavours.includes(name),
    )
    .filter((name) => !isForCoverage || isToBeShown(program, name));
}

/** Noted at once: a run of all takes long, and may be cut off. */
function note({ name }: ObjectProgram, flavour: FlavourName, result: Result): void {
  if (resultsFile !== undefined) writeResults(resultsFile, { [name]: { [flavour]: result } });
}

function register(program: ObjectProgram, flavour: FlavourName): void {
  const isAlone = program.isAlone ?? false;
  const number = jobs.add({ isAlone, run: () => flavours[flavour](program) });
  it(titles[flavour], async function () {
    this.timeout(testTimeoutMs);
    const { skipped, refused = false } = await jobs.result(number).catch((error: unknown) => {
      note(program, flavour, 'failed');
      throw error;
    });
    note(program, flavour, refused ? 'refused' : 'carried');
    if (skipped === undefined) return;
    note(program, flavour, 'skipped');
    this.skip();
  });
}

/** The features of the processors here, as proc_cpuinfo(5) lists them. */
const cpuFlags = new Set(
  /^flags\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '),
);

/** Whether the kernel has an option; also where it does not tell. */
function isBuiltWith(option: string): boolean {
  if (!existsSync('/proc/config.gz')) return true;
  const options = gunzipSync(readFileSync('/proc/config.gz')).toString('latin1');
  return options.split('\n').includes(`${option}=y`);
}

/** What this machine has not, of what a program is about. */
function lacking({ cpuFlag, kernelOption, is32Bit = false }: ObjectProgram): string | undefined {
  if (cpuFlag !== undefined && !cpuFlags.has(cpuFlag)) return cpuFlag;
  if (kernelOption !== undefined && !isBuiltWith(kernelOption)) return kernelOption;
  return is32Bit && !runs32BitPrograms() ? '32-bit programs' : undefined;
}

/** Says what this machine has not, and registers no test for it: a skip would be a test that ought to have run. */
function isForThisMachine(program: ObjectProgram): boolean {
  const lacks = lacking(program);
  if (lacks === undefined) return true;
  console.log(`  ${program.name}: not tried, this machine has no ${lacks}`);
  for (const flavour of flavoursOf(program)) note(program, flavour, 'skipped');
  return false;
}

/** Huge pages that the kernel may make when a program asks for them, and takes back afterwards. */
const hugePagesFile = '/proc/sys/vm/nr_overcommit_hugepages';
const hugePagesWanted = 64;

describe('kernel objects', () => {
  const hugePagesBefore = existsSync(hugePagesFile) ? readFileSync(hugePagesFile, 'utf8') : '';
  before(() => {
    if (hugePagesBefore !== '') writeFileSync(hugePagesFile, `${hugePagesWanted}`);
  });
  after(async function () {
    this.timeout(testTimeoutMs);
    await jobs.settled();
    if (hugePagesBefore !== '') writeFileSync(hugePagesFile, hugePagesBefore);
  });

  for (const program of programs) {
    if (!isChosen(program) || !isForThisMachine(program)) continue;
    describe(program.name, () => {
      for (const flavour of flavoursOf(program)) register(program, flavour);
    });
  }

  if (!engineExists()) {
    it('has an engine to test (run "npm run build" first)', () => {
      throw new Error('dist/ferry.mjs is missing');
    });
  }
});
