import type { TreeImage } from './generated/ferry/image/v1/tree.js';

/** What of the tree is not in the image, for people. */
export function lossesOf(image: TreeImage): string[] {
  return image.files.flatMap(({ id, kind, lost }) => {
    if (lost === '') return [];
    const holder = image.processes.find(({ descriptors }) =>
      descriptors.some(({ fileId }) => fileId === id),
    );
    const fd = holder?.descriptors.find(({ fileId }) => fileId === id)?.fd;
    const where = `descriptor ${fd ?? '?'} of process ${holder?.hostPid ?? '?'}`;
    return [`${where} (${kind?.$case}): ${lost} that were not read are not carried`];
  });
}
