import {
  compileFinish,
  compileSkeleton,
  restorer,
  type Skeleton,
  type SkeletonPrograms,
} from '@ferry/dumpbin';
import { TreeImage, validateTree } from '@ferry/image';

import type { LaterProcess } from './later-pages.js';

export type { Skeleton, SkeletonPrograms };

/** Programs that make processes with the layout of an image, which wait.
 *  @throws FerryError image.*, dumpbin.* when the image, which comes from a peer, asks for what cannot be */
export function skeletonOf(image: Buffer): { skeleton: Skeleton; programs: SkeletonPrograms } {
  return compileSkeleton(decoded(image), { restorer: restorer() });
}

/** Programs that make a skeleton what the final image shows. Private memory that was sent and is empty by now comes as
 *  zeros.
 *  @param later  memory that comes once it runs
 *  @throws FerryError dumpbin.skeleton when that cannot be; as skeletonOf */
export function finishOf(
  image: Buffer,
  skeleton: Skeleton,
  later: readonly LaterProcess[] = [],
): SkeletonPrograms {
  const runs = new Map(later.map((process) => [process.pid, process.runs]));
  const tree = decoded(image);
  const objects = new Map(tree.sharedMemory.map(({ id, emptied }) => [id, emptied]));
  return compileFinish(tree, skeleton, {
    ...{ later: runs, vanished: { processes: new Map(), objects } },
  });
}

function decoded(image: Buffer): TreeImage {
  const tree = TreeImage.decode(image);
  validateTree(tree);
  return tree;
}
