import { contained, containerMove } from './support/container.js';
import { engineExists } from './support/engine.js';
import { canBeSabotaged, flavours as plainFlavours, type Verdict } from './support/flavours.js';
import { Jobs } from './support/jobs.js';
import { type ObjectProgram, programs } from './table.js';

// FERRY_OBJECTS=name,name          only these programs
// FERRY_OBJECTS_FLAVOURS=tree,...  only these flavours
// FERRY_OBJECTS_JOBS=n             how many run at a time (3)
// FERRY_OBJECTS_CONTAINER=0|1      not in runc containers | also in containers that nobody touches
// FERRY_OBJECTS_OUTSIDE=ignore     believe the programs alone, do not compare /proc
const flavours = { ...plainFlavours, contained, containerMove };
type FlavourName = keyof typeof flavours;
const withContainers = process.env.FERRY_OBJECTS_CONTAINER !== '0';
const withUntouchedContainers = process.env.FERRY_OBJECTS_CONTAINER === '1';
const chosen = list(process.env.FERRY_OBJECTS);
const chosenFlavours = list(process.env.FERRY_OBJECTS_FLAVOURS);
const jobs = new Jobs<Verdict>(Number(process.env.FERRY_OBJECTS_JOBS ?? 3));
const testTimeoutMs = 120_000;

const titles: Readonly<Record<FlavourName, string>> = {
  unmoved: 'passes when nobody touches it',
  sabotage: 'fails when its object is broken',
  frozen: 'passes when it is stopped and let go',
  rollback: 'does not notice a dump that leaves it running',
  tree: 'passes after dump and restore',
  contained: 'passes in a container when nobody touches it',
  containerMove: 'passes after a move from one container into another',
  carriedOrRefused: 'is carried, or refused by name and left alone',
};

function list(value: string | undefined): string[] | undefined {
  return value === undefined || value === '' ? undefined : value.split(',');
}

function isChosen(program: ObjectProgram): boolean {
  return chosen?.includes(program.name) ?? program.onlyByName === undefined;
}

function flavoursOf(program: ObjectProgram): FlavourName[] {
  const own: FlavourName[] = ['unmoved'];
  if (canBeSabotaged(program)) own.push('sabotage');
  own.push('frozen');
  const isContained = withContainers && program.hostOnly === undefined;
  if (isContained && withUntouchedContainers) own.push('contained');
  if (engineExists()) {
    own.push(...(program.later === undefined ? (['rollback', 'tree'] as const) : []));
    if (program.later !== undefined) own.push('carriedOrRefused');
    else if (isContained) own.push('containerMove');
  }
  return own.filter((name) => chosenFlavours === undefined || chosenFlavours.includes(name));
}

function register(program: ObjectProgram, flavour: FlavourName): void {
  const isAlone = program.isAlone ?? false;
  const number = jobs.add({ isAlone, run: () => flavours[flavour](program) });
  it(titles[flavour], async function () {
    this.timeout(testTimeoutMs);
    const { skipped } = await jobs.result(number);
    if (skipped !== undefined) this.skip();
  });
}

describe('kernel objects', () => {
  after(async function () {
    this.timeout(testTimeoutMs);
    await jobs.settled();
  });

  for (const program of programs) {
    if (!isChosen(program)) continue;
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
