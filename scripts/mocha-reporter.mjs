// A mocha reporter: one line per test as it ends, the failures in full at the end of the run, and the result as JSON
// in the file named by FERRY_TEST_RESULT, where scripts/test.mjs adds up several runs.
import { writeFileSync } from 'node:fs';

const indent = (text, by) => text.replace(/^/gm, ' '.repeat(by));

function titleOf(test) {
  return test.titlePath().join(' › ');
}

function failureText(test, error) {
  const seen = [];
  for (let cause = error; cause !== undefined && seen.length < 8; cause = cause?.cause) {
    seen.push(cause?.stack ?? String(cause));
  }
  return `${titleOf(test)}\n${indent(seen.join('\ncaused by '), 4)}`;
}

export default class FerryReporter {
  constructor(runner) {
    const result = { passed: 0, failed: 0, failures: [], skipped: [], slow: [] };
    const depth = () => Math.max(0, level - 1) * 2;
    let level = 0;
    // Written at every change: what a run that crashes or hangs had done until then is known.
    const save = (finished) => {
      const file = process.env.FERRY_TEST_RESULT;
      if (file !== undefined) writeFileSync(file, JSON.stringify({ ...result, finished }));
    };
    const line = (text) => process.stdout.write(`${indent(text, depth())}\n`);
    save(false);
    runner.on('suite', (suite) => {
      level += 1;
      if (suite.title !== '') line(suite.title);
    });
    runner.on('suite end', () => {
      level -= 1;
    });
    runner.on('pass', (test) => {
      result.passed += 1;
      result.slow.push({ title: titleOf(test), ms: test.duration ?? 0 });
      line(`  ok ${test.title}${test.duration > 200 ? ` (${test.duration} ms)` : ''}`);
      save(false);
    });
    runner.on('pending', (test) => {
      result.skipped.push(titleOf(test));
      line(`  skipped ${test.title}`);
    });
    runner.on('fail', (test, error) => {
      result.failed += 1;
      result.failures.push(failureText(test, error));
      result.slow.push({ title: titleOf(test), ms: test.duration ?? 0 });
      line(`  FAILED ${test.title}: ${String(error?.message ?? error).split('\n')[0]}`);
      save(false);
    });
    runner.on('end', () => save(true));
  }
}
