export { Auditor } from './audit.js';
export { createAuthority, type IssueOptions, issue, type KeyPair } from './authority.js';
export {
  authorityFiles,
  initAuthority,
  issueFolder,
  readAuthority,
  readIssued,
} from './folders.js';
export { callerOf } from './guard.js';
export {
  type Caller,
  callerText,
  identityOf,
  isRole,
  type Role,
  roles,
  uriOf,
} from './identity.js';
export { ruleOf } from './policy.js';
export {
  type ExpectedPeer,
  isLocal,
  noSecurity,
  Security,
  type SecuritySettings,
} from './security.js';
export { checkTicket, type Journey, signTicket, ticketLifeMs } from './tickets.js';
export { TlsFolder, type TlsMaterial, tlsFiles } from './tls-folder.js';
export { createToken, TokenFile } from './tokens.js';
