// Exit status 0 when node_modules already holds what package-lock.json asks for (npm's own record of what it
// installed, node_modules/.package-lock.json, lists the same packages in the same versions), otherwise 1.
import { existsSync, readFileSync } from 'node:fs';

function packages(file) {
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).packages : {};
}

const installed = packages('node_modules/.package-lock.json');
const wanted = Object.entries(packages('package-lock.json')).filter(([path]) => path !== '');
const same = wanted.every(([path, entry]) => {
  const present = installed[path];
  if (present === undefined) return entry.optional === true || !path.includes('node_modules/');
  return present.version === entry.version && existsSync(path);
});
process.exitCode = same && wanted.length > 0 ? 0 : 1;
