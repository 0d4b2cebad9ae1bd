import type { GivenMount, GivenNetwork, TreeLabels } from '@ferry/capture';
import type { Addresses, FileText, NetworkConfig } from '@ferry/container';
import type { Blocker } from '@ferry/core';
import type { FileReference, HostFacts } from '@ferry/image';

/** How a tracer that lost its agent connects the container again. */
export interface Reconnection {
  readonly config: NetworkConfig;
  readonly nodeId: string;
  readonly port: { readonly netns: string; readonly veth: string };
  readonly addresses: Addresses;
  /** The container's cgroup, with `cgroup.freeze` or `freezer.state`. */
  readonly cgroup: string;
}

/** What the agent asks its tracer process to do, one at a time, over Node's IPC channel (`serialization: advanced`:
 *  bigints and buffers travel as they are). */
export type TracerRequest =
  /** Captures a throw-away process, so that the code has run; before `open`. */
  | { readonly method: 'rehearse' }
  | {
      readonly method: 'open';
      readonly hostPid: number;
      readonly externalInodes: bigint[];
      readonly givenMounts: GivenMount[];
      readonly givenSettings: Record<string, string>;
      /** Undefined: what is in the network is not compared. */
      readonly givenNetwork?: GivenNetwork | undefined;
      readonly reconnection: Reconnection;
    }
  | { readonly method: 'scan' }
  /** Stops the tree for its layout; from then on writes are noted. */
  | { readonly method: 'track' }
  /** What was written since the last round. */
  | { readonly method: 'round' }
  /** Files to be written by a tracer that loses its agent. */
  | { readonly method: 'putBack'; readonly files: readonly FileText[] }
  /** What a freeze should not have to wait for. */
  | { readonly method: 'makeReady' }
  | { readonly method: 'freeze' }
  /** @param later  memory that may come once the container runs is told apart
   *  @param cut  its network is being cut meanwhile: sockets wait for that word at NETWORK_FD, by its number */
  | { readonly method: 'capture'; readonly later: boolean; readonly cut?: number | undefined }
  /** Again, with all pages, whatever the rounds gave. */
  | { readonly method: 'captureWhole' }
  /** What is left to be looked at of what was captured: before that nothing of it may run elsewhere. */
  | { readonly method: 'check' }
  | { readonly method: 'thaw' }
  /** From here on what is done when the agent is lost follows from that journal entry's being there. */
  | { readonly method: 'commit'; readonly entry: string }
  | { readonly method: 'kill' }
  /** Forgets the tree, which it does not hold: another one may be opened. */
  | { readonly method: 'release' };

/** Where a tracer, which cannot take a message while it captures, reads whether the network of its container is cut. What
 *  nobody read of an earlier capture, which failed before, may come first. */
export const NETWORK_FD = 4;

export interface NetworkWord {
  readonly cut: number;
  readonly done: boolean;
}

export const NETWORK_WORD_BYTES = 8;

export function encodeNetworkWord({ cut, done }: NetworkWord): Buffer {
  const bytes = Buffer.alloc(NETWORK_WORD_BYTES);
  bytes.writeUInt32LE(cut, 0);
  bytes.writeUInt32LE(done ? 1 : 0, 4);
  return bytes;
}

export function decodeNetworkWord(bytes: Buffer): NetworkWord {
  return { cut: bytes.readUInt32LE(0), done: bytes.readUInt32LE(4) === 1 };
}

export interface TracerResults {
  rehearse: TracerRehearsal;
  open: undefined;
  scan: TracerScan;
  track: TracerLayout;
  round: TracerRound;
  putBack: undefined;
  makeReady: undefined;
  freeze: undefined;
  capture: TracerCapture;
  captureWhole: TracerCapture;
  check: undefined;
  thaw: undefined;
  commit: undefined;
  kill: undefined;
  release: undefined;
}

export interface TracerScan {
  readonly blockers: readonly Blocker[];
  readonly facts: HostFacts;
  readonly processes: number;
  readonly residentBytes: bigint;
  readonly mappedFiles: readonly FileReference[];
  readonly labels: TreeLabels;
}

export interface TracerCapture {
  /** A TreeImage message. */
  readonly image: Buffer;
  /** A SegmentTable. */
  readonly segments: Buffer;
  /** So many segments at its end may come later. */
  readonly laterSegments: number;
}

/** What a migration would have sent: TreeImage messages; undefined where nothing can be rehearsed. */
export type TracerRehearsal = { readonly layout: Buffer; readonly image: Buffer } | undefined;

/** `image`: a TreeImage message without descriptors and pages; undefined when writes cannot be noted here. */
export interface TracerLayout {
  readonly image: Buffer | undefined;
  /** For as long the tree stood. */
  readonly stopMs: number;
  readonly warnings: readonly string[];
}

export interface TracerRound {
  /** A SegmentTable: first shared memory that was written, then private memory, last shared memory that may have been. */
  readonly segments: Buffer;
  readonly sharedSegments: number;
  readonly doubtfulSegments: number;
  /** There is shared memory: in the next look all of it may be doubtful. */
  readonly followsShared: boolean;
  readonly scanMs: number;
}

export type TracerAnswer =
  | { readonly ok: true; readonly result: unknown }
  | {
      readonly ok: false;
      readonly code: string;
      readonly message: string;
      readonly remedy: string | undefined;
    };
