import type { ContainerDescription, HostFacts } from '@ferry/api';
import type { ContainerHost } from '@ferry/container';
import { loadedProfiles } from '@ferry/linux';
import { readResources } from './host-facts.js';
import { missingFiles } from './mapped-files.js';
import { type HostOffer, judge, type Verdict } from './preflight.js';
import { isRemains } from './remains.js';

export interface DestinationHost {
  readonly host: ContainerHost;
  readonly facts: HostFacts;
  readonly stateDir: string;
  /** For what has to outlive the agent. */
  readonly runDir: string;
}

/** Looks whether this host can take what is described. Changes nothing. */
export async function preflight(
  destination: Omit<DestinationHost, 'runDir'>,
  description: ContainerDescription,
  options: { readonly name?: string } = {},
): Promise<Verdict> {
  const { host, facts, stateDir } = destination;
  const spec = description.container?.spec;
  const name = options.name ?? description.container?.name ?? spec?.name ?? '';
  const wanted = description.container?.address || spec?.network?.address || '';
  const address = wanted.split('/')[0];
  const present = (await host.list()).filter((status) => !isRemains(status, description));
  const holder = present.find(({ record }) => record.network.address === address);
  const offer: HostOffer = {
    facts,
    resources: readResources(stateDir),
    nameTaken: present.some(({ record }) => record.name === name),
    addressHolder: address === '' ? undefined : holder?.record.name,
    missingLayers: host.missingLayers({ layers: description.layers }).length > 0,
    wrongFiles: await missingFiles(description.mappedFiles),
    profiles: description.apparmorProfiles.length > 0 ? loadedProfiles() : undefined,
  };
  return judge(description, offer);
}
