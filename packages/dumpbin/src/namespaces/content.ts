import type { Namespace } from '@ferry/image';
import type { CompileContext } from '../compile-context.js';
import { emitIpc } from '../ipc-steps.js';
import type { ProgramBuilder } from '../program.js';
import { emitNetwork } from './network.js';
import { emitSettings, emitUts } from './settings.js';

/** What a namespace holds, but for mounts. Runs inside it.
 *  @param outerNetwork  descriptor of the network namespace that its devices lead to */
export function emitContent(
  b: ProgramBuilder,
  namespace: Namespace,
  ctx: CompileContext,
  outerNetwork: number,
): void {
  const { content } = namespace;
  if (content?.$case === 'uts') emitUts(b, content.value);
  if (content?.$case === 'net') emitNetwork(b, namespace, ctx, outerNetwork);
  else emitSettings(b, namespace, ctx.namespaceFd('proc'));
  if (content?.$case === 'ipc') emitIpc(b, content.value);
}
