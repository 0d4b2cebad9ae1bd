/** How the names begin that a capture gives to open files whose own names are gone, for a restore to find them by. */
export const TEMPORARY_NAME = '.ferry-link-';

/** Whether the capture of an encoded image gave files such names: then what was read of the files before it is not all. */
export function hasTemporaryNames(image: Buffer): boolean {
  return image.includes(TEMPORARY_NAME);
}
