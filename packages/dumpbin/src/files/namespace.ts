import type { FileObject } from '@ferry/image';
import { wayTo } from '../namespaces/pid-spaces.js';
import { emitOpen, emitReopen, openFlags } from './common.js';
import { emitReplace, emitStandIn, emitTakeOver, firstHolder } from './deferred.js';
import type { FileEmitter } from './emit.js';

/** /proc/PID/ns/TYPE of a namespace that the tree's root is in, or that is made for it. Some are there only when the
 *  processes that make them are. */
export const namespaceEmitter: FileEmitter = {
  create(b, file, ctx) {
    const { type, namespaceId } = partOf(file);
    if (namespaceId === 0) {
      emitOpen(b, { ...file, position: 0n }, `/proc/self/ns/${type}`, ctx);
    } else if (wayTo(ctx.image, namespaceId) !== undefined) emitStandIn(b, file, ctx);
    else {
      // Through the descriptor that the root has of it: a description of its own, of the same namespace.
      const fd = ctx.spaceFd(namespaceId);
      emitReopen(b, file, fd, { name: `${type} namespace ${namespaceId}`, ctx });
    }
  },
  installed(b, file, _fd, ctx) {
    const { type, namespaceId } = partOf(file);
    const holder = firstHolder(ctx.image, file.id);
    if (wayTo(ctx.image, namespaceId) === undefined || holder === undefined) return;
    const slot = b.slotFor('file');
    const path = `/proc/self/fd/${ctx.spaceFd(namespaceId)}`;
    const name = `${type} namespace ${namespaceId}`;
    b.sys('open', [b.cstr(path), openFlags(file.flags), 0], name, { into: slot });
    emitReplace(b, slot, file, { holder, name });
  },
  late(b, file, holder, ctx) {
    const { type, namespaceId } = partOf(file);
    if (wayTo(ctx.image, namespaceId) === undefined) return;
    emitTakeOver(b, file, holder, `${type} namespace ${namespaceId}`, ctx.image);
  },
};

function partOf({ id, kind }: FileObject): { type: string; namespaceId: number } {
  if (kind?.$case !== 'namespace') throw new TypeError(`File ${id} is no namespace`);
  return kind.value;
}
