/** The image format this code reads and writes. Raised by any change that an older reader would misread. */
export const IMAGE_FORMAT = 1;
