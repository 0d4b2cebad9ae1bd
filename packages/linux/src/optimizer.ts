import { setFlagsFromString } from 'node:v8';
import { asLongAsWished } from './wished.js';

/** Until it is disposed of, V8 optimizes no function of this process anew; as long as several wish it, it holds. Its optimizing
 *  compiler works in threads beside, 10 to 50 ms for a function, for all that has become hot lately: in a freeze that is the most
 *  of what agents and tracer do with the processors, and all of it for later. What is optimized stays so. */
export const holdOptimizer: () => Disposable = asLongAsWished(
  () => setFlagsFromString('--no-opt'),
  () => setFlagsFromString('--opt'),
);
