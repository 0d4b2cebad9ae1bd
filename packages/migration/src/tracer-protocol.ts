import type { Addresses, NetworkConfig } from '@ferry/container';
import type { Blocker } from '@ferry/core';
import type { FileReference, HostFacts } from '@ferry/image';

/** How a tracer that lost its agent connects the container again. */
export interface Reconnection {
  readonly config: NetworkConfig;
  readonly nodeId: string;
  readonly port: { readonly netns: string; readonly veth: string };
  readonly addresses: Addresses;
}

/** What the agent asks its tracer process to do, one at a time, over Node's IPC channel (`serialization: advanced`:
 *  bigints and buffers travel as they are). */
export type TracerRequest =
  | {
      readonly method: 'open';
      readonly hostPid: number;
      readonly externalInodes: bigint[];
      readonly reconnection: Reconnection;
    }
  | { readonly method: 'scan' }
  | { readonly method: 'freeze' }
  | { readonly method: 'capture' }
  | { readonly method: 'thaw' }
  /** Whether it still is there. */
  | { readonly method: 'ping' }
  /** From here on a tracer that loses its agent does not thaw. */
  | { readonly method: 'commit' }
  | { readonly method: 'kill' };

export interface TracerResults {
  open: undefined;
  scan: TracerScan;
  freeze: undefined;
  capture: TracerCapture;
  thaw: undefined;
  ping: undefined;
  commit: undefined;
  kill: undefined;
}

export interface TracerScan {
  readonly blockers: readonly Blocker[];
  readonly facts: HostFacts;
  readonly processes: number;
  readonly residentBytes: bigint;
  readonly mappedFiles: readonly FileReference[];
}

export interface TracerCapture {
  /** A TreeImage message. */
  readonly image: Buffer;
  /** A SegmentTable. */
  readonly segments: Buffer;
}

export type TracerAnswer =
  | { readonly ok: true; readonly result: unknown }
  | {
      readonly ok: false;
      readonly code: string;
      readonly message: string;
      readonly remedy: string | undefined;
    };
