import type { ContainerHost } from '@ferry/container';
import { Tracer, type TracerCommand } from './tracer.js';

/** A tracer for all processes of a container that runs.
 *  @throws FerryError container.state when it does not */
export async function startTracer(
  source: { readonly host: ContainerHost; readonly tracer: TracerCommand },
  name: string,
): Promise<Tracer> {
  const { host } = source;
  const hostPid = await host.initPid(name);
  const { stdoutInode, stderrInode } = await host.stdio(name);
  return await Tracer.start(source.tracer, { hostPid, externalInodes: [stdoutInode, stderrInode] });
}
