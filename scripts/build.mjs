// Builds everything: generated protobuf code, the native addon, the restorer, the bundled programs.
// Usage: node scripts/build.mjs [proto] [native] [bundle]   (all of them by default)
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const wanted = process.argv.slice(2);
const wants = (part) => wanted.length === 0 || wanted.includes(part);
/** Small packages that become part of the programs: to find and read their many files takes a program that starts longer
 *  than to run them. */
const bundledPackages = ['@bufbuild/protobuf', 'commander'];

function run(program, args) {
  try {
    execFileSync(program, args, { cwd: root, stdio: 'inherit' });
  } catch (error) {
    if (error.code === 'ENOENT') {
      console.error(`build: ${program} is not installed; run "npm run setup" as root first`);
      process.exit(1);
    }
    throw error;
  }
}

function protoFiles(folder) {
  return readdirSync(join(root, folder), { recursive: true })
    .filter((name) => name.endsWith('.proto'))
    .map((name) => join(folder, name));
}

/** ts-proto into OUT for every .proto below FOLDER; import paths are relative to proto/. */
function generate(folder, out, options) {
  const target = join(root, out);
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  run(join(root, 'node_modules/.bin/protoc'), [
    `--plugin=protoc-gen-ts_proto=${join(root, 'node_modules/.bin/protoc-gen-ts_proto')}`,
    `--ts_proto_out=${target}`,
    `--ts_proto_opt=esModuleInterop=true,importSuffix=.js,forceLong=bigint,env=node,oneof=unions-value,useExactTypes=false,useOptionals=none,outputPartialMethods=true,useDate=false,enumsAsLiterals=true,${options}`,
    '-Iproto',
    ...protoFiles(folder),
  ]);
}

if (wants('proto')) {
  generate(
    'proto/ferry/image',
    'packages/image/src/generated',
    'outputServices=none,outputJsonMethods=true',
  );
  if (existsSync(join(root, 'proto/ferry/cluster'))) {
    const out = 'packages/api/src/generated';
    const target = join(root, out);
    rmSync(target, { recursive: true, force: true });
    mkdirSync(target, { recursive: true });
    run(join(root, 'node_modules/.bin/protoc'), [
      `--plugin=protoc-gen-ts_proto=${join(root, 'node_modules/.bin/protoc-gen-ts_proto')}`,
      `--ts_proto_out=${target}`,
      '--ts_proto_opt=esModuleInterop=true,importSuffix=.js,forceLong=bigint,env=node,oneof=unions-value,useExactTypes=false,useOptionals=none,outputPartialMethods=true,useDate=false,outputServices=grpc-js,outputJsonMethods=true',
      '-Iproto',
      ...protoFiles('proto/ferry/cluster'),
    ]);
  }
}

if (wants('native')) {
  const cFlags = [
    '-std=gnu11',
    '-O2',
    '-Wall',
    '-Wextra',
    '-Wconversion',
    '-Wno-sign-conversion',
    '-Werror',
  ];
  const headers = require('node-api-headers').include_dir;
  mkdirSync(join(root, 'packages/linux/build'), { recursive: true });
  run('cc', [
    ...cFlags,
    '-shared',
    '-fPIC',
    '-DNAPI_VERSION=8',
    `-I${headers}`,
    ...readdirSync(join(root, 'packages/linux/native'))
      .filter((f) => f.endsWith('.c'))
      .map((f) => `packages/linux/native/${f}`),
    '-llz4',
    '-o',
    'packages/linux/build/addon.node',
  ]);
  if (existsSync(join(root, 'packages/dumpbin/restorer/build.sh')))
    run('sh', ['packages/dumpbin/restorer/build.sh']);
  run('sh', ['packages/container/native/build.sh']);
  run('sh', ['packages/capture/native/build.sh']);
  run('sh', ['packages/pages/native/build.sh']);
}

if (wants('bundle')) {
  const entries = {
    ferry: 'services/cli/src/main.ts',
    'ferry-agent': 'services/agent/src/main.ts',
    'ferry-tracer': 'services/agent/src/tracer-main.ts',
    'ferry-controller': 'services/controller/src/main.ts',
  };
  const present = Object.entries(entries).filter(([, file]) => existsSync(join(root, file)));
  const results = await Promise.allSettled(present.map(([name, file]) => bundle(name, file)));
  if (results.some(({ status }) => status === 'rejected')) process.exitCode = 1;
}

/** The dependencies that programs load from node_modules. */
function packagesLoadedAsTheyAre() {
  return Object.keys(require('../package.json').dependencies)
    .filter((name) => !bundledPackages.includes(name))
    .flatMap((name) => [name, `${name}/*`]);
}

/** One program with what it imports. Parts that it loads on demand become files of their own. */
async function bundle(name, file) {
  const esbuild = await import('esbuild');
  const built = await esbuild.build({
    write: false,
    absWorkingDir: root,
    entryPoints: { [name]: file },
    chunkNames: `${name}-[hash]`,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    splitting: true,
    outdir: 'dist',
    outExtension: { '.js': '.mjs' },
    sourcemap: 'linked',
    external: packagesLoadedAsTheyAre(),
    alias: {
      ...Object.fromEntries(
        readdirSync(join(root, 'packages')).map((folder) => [
          `@ferry/${folder}`,
          join(root, 'packages', folder, 'src/index.ts'),
        ]),
      ),
      // The one part of a package that is named by itself: the controller needs none of the rest.
      '@ferry/migration/controller-machine': join(
        root,
        'packages/migration/src/controller-machine.ts',
      ),
    },
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
    logLevel: 'warning',
  });
  // The parts before the program that names them, each in one step: whoever starts meanwhile finds a whole set.
  mkdirSync(join(root, 'dist'), { recursive: true });
  const isProgram = ({ path }) => basename(path).startsWith(`${name}.mjs`);
  for (const part of [...built.outputFiles].sort((a, b) => isProgram(a) - isProgram(b))) {
    writeFileSync(`${part.path}.${process.pid}`, part.contents);
    renameSync(`${part.path}.${process.pid}`, part.path);
  }
}
