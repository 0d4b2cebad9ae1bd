import { errorText, FerryError } from '@ferry/core';

/** Runs a compiler of images. One from outside that passed every check may still say what makes no sense: whatever that
 *  leads to is a refusal.
 *  @throws FerryError only */
export function refusing<T>(compile: () => T): T {
  try {
    return compile();
  } catch (error) {
    if (error instanceof FerryError) throw error;
    throw new FerryError('image.invalid', `The image makes no sense: ${errorText(error)}`, {
      cause: error,
      remedy: 'make the image again; report it when the same tree gives the same',
    });
  }
}
