import { typeOf } from './common.js';
import type { FileCapture } from './context.js';
import { namelessOf } from './nameless.js';
import { referenceOf } from './path.js';
import { ofProcess } from './proc-file.js';

/** Directories, with the position of getdents(2), and O_PATH descriptors of directories. */
export const directoryCapture: FileCapture = {
  matches: (descriptor) => descriptor.link.startsWith('/') && typeOf(descriptor) === 'directory',
  capture(descriptor, ctx) {
    const proc = ofProcess(descriptor, ctx);
    if (proc === undefined) return undefined;
    if (proc !== 'other') return { $case: 'directory', value: { nameless: undefined, ...proc } };
    const file = referenceOf(descriptor, ctx);
    if (file === undefined) return undefined;
    const value = { file, nameless: undefined, process: undefined };
    if (!file.deleted) return { $case: 'directory', value };
    const nameless = namelessOf(descriptor, file.path, ctx);
    return nameless && { $case: 'directory', value: { ...value, nameless } };
  },
};
