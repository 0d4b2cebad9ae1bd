import { RestoreContainerRequest } from '@ferry/api';
import { upload } from '../checkpoint-file.js';
import { type ClusterOptions, withCluster } from '../cluster.js';
import { followToEnd } from '../follow.js';

interface Options extends ClusterOptions {
  readonly node: string;
  readonly name?: string;
  readonly detach?: boolean;
  readonly key?: string;
}

/** `ferry restore FILE --node NODE`: sends a checkpoint file to a node and starts the container
 *  there. */
export async function restoreOnNode(file: string, options: Options): Promise<void> {
  await withCluster(options, async (client) => {
    const { node, name = '' } = options;
    const { checkpointId } = await upload(client, { file, node, key: options.key });
    const request = RestoreContainerRequest.fromPartial({ node, checkpointId, name });
    const begun = await client.restoreContainer(request);
    await followToEnd(client, begun, {
      ...options,
      success: ({ container, node: where }) => `${container} runs on ${where} again`,
    });
  });
}
