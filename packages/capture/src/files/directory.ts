import { refuse, typeOf } from './common.js';
import type { FileCapture } from './context.js';
import { referenceOf } from './path.js';

/** Directories, with the position of getdents(2), and O_PATH descriptors of directories. */
export const directoryCapture: FileCapture = {
  matches: (descriptor) => descriptor.link.startsWith('/') && typeOf(descriptor) === 'directory',
  capture(descriptor, ctx) {
    const file = referenceOf(descriptor, ctx);
    if (file === undefined) return undefined;
    if (file.deleted) {
      return refuse(descriptor, ctx, {
        code: 'file.deletedDirectory',
        reason: 'the directory was removed while it is open',
        remedy: 'close it',
      });
    }
    if (/^\/proc\/\d+(\/|$)/.test(file.path)) {
      return refuse(descriptor, ctx, {
        code: 'file.procOfProcess',
        reason: 'a directory of a process, which may not exist yet when it is opened again',
        remedy: 'close it',
      });
    }
    return { $case: 'directory', value: { file } };
  },
};
