import type { Namespace, UtsNamespace } from '@ferry/image';
import type { ProgramBuilder } from '../program.js';

export function emitUts(b: ProgramBuilder, { hostname, domainname }: UtsNamespace): void {
  b.sys('sethostname', [b.bytes(hostname, 1), hostname.length], 'host name');
  b.sys('setdomainname', [b.bytes(domainname, 1), domainname.length], 'domain name');
}

/** Writes files of /proc/sys. `proc` is any /proc: what these files show depends on who opens them. */
export function emitSettings(b: ProgramBuilder, namespace: Namespace, proc: number): void {
  const slot = b.slotFor('setting');
  for (const { name, value } of namespace.settings) {
    b.sys('openat', [proc, b.cstr(`sys/${name}`), 1, 0], `open /proc/sys/${name}`, { into: slot });
    const text = Buffer.from(value);
    b.sys('write', [slot, b.bytes(text), text.length], `set /proc/sys/${name}`);
    b.sys('close', [slot], `close /proc/sys/${name}`);
  }
}
