import {
  type ControllerStep,
  controllerStart,
  controllerStep,
} from '../../packages/migration/src/controller-machine.js';
import {
  destinationRestart,
  destinationStart,
  destinationStep,
} from '../../packages/migration/src/destination-machine.js';
import { opening } from '../../packages/migration/src/opening.js';
import {
  sourceRestart,
  sourceStart,
  sourceStep,
} from '../../packages/migration/src/source-machine.js';

/** The functions of the protocol, the very ones that the services use; a mutant replaces some. */
export interface Protocol {
  readonly sourceStart: typeof sourceStart;
  readonly sourceStep: typeof sourceStep;
  readonly sourceRestart: typeof sourceRestart;
  readonly destinationStart: typeof destinationStart;
  readonly destinationStep: typeof destinationStep;
  readonly destinationRestart: typeof destinationRestart;
  readonly opening: typeof opening;
  readonly controllerStart: (before: { begun: boolean; doubted: boolean }) => ControllerStep;
  readonly controllerStep: typeof controllerStep;
}

export const theProtocol: Protocol = {
  ...{ sourceStart, sourceStep, sourceRestart },
  ...{ destinationStart, destinationStep, destinationRestart },
  ...{ opening, controllerStart, controllerStep },
};
