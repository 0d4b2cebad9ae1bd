import { join } from 'node:path';
import {
  createAuthority,
  type IssueOptions,
  issueFolder,
  type KeyPair,
  type Role,
} from '@ferry/api';

let authority: KeyPair | undefined;

/** One certificate authority for all that a process tests: made in memory, known to nobody else. */
export function testAuthority(): KeyPair {
  authority ??= createAuthority({ name: 'Ferry test CA', days: 1 });
  return authority;
}

/** Makes a folder for --tls below `path`; gives its path. */
export function certificateFolder(
  path: string,
  who: { role: Role; name: string } & Partial<IssueOptions>,
): string {
  const folder = join(path, 'tls', `${who.role}-${who.name}`);
  issueFolder(folder, testAuthority(), { days: 1, ...who });
  return folder;
}
