import { spawn } from 'node:child_process';
import { compileTree, restorer } from '@ferry/dumpbin';
import { encodeTreeFile } from '@ferry/image';
import { TreeCapture } from './tree-capture.js';

/** Captures a throw-away child once, so that the code of a freeze has run before a freeze has to be short: its
 *  functions are compiled on first use, which costs several times what they then take. Blocks for about 20 ms. */
export function rehearse(): void {
  const child = spawn('sleep', ['30'], { stdio: 'ignore' });
  child.on('error', () => {});
  child.unref();
  if (child.pid === undefined) return;
  using capture = TreeCapture.open(child.pid);
  capture.scan();
  capture.freeze();
  try {
    const image = capture.capture();
    capture.segments(image);
    compileTree(image, { pages: 'external', restorer: restorer() });
    encodeTreeFile(image);
  } catch (error) {
    // The child may have inherited what cannot be carried: then that is as far as the rehearsal goes.
    if ((error as { code?: unknown }).code !== 'capture.blocked') throw error;
  } finally {
    capture.kill();
  }
}
