/** Bounds of what an image may hold, and of what is made of it: beyond them it is refused, not tried. */
export const LIMITS = {
  /** The file of an image, without page contents. */
  treeBytes: 256 << 20,
  processes: 32_768,
  threadsPerProcess: 32_768,
  descriptorsPerProcess: 1_048_576,
  mappingsPerProcess: 1_000_000,
  runsPerProcess: 16_000_000,
  files: 4_000_000,
  xstateBytes: 65_536,
  pid: 4_194_304,
  pathBytes: 4096,
  /** A label is written in one go with a command before it, at most a page. */
  labelBytes: 4000,
  /** The data area of a program: contents of queues and pipes stand there, and room for what system calls give. */
  programBytes: 512 << 20,
} as const;
