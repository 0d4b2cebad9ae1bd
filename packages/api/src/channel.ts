import type { ChannelOptions } from '@grpc/grpc-js';
import { limits } from './limits.js';

/** What a channel is for. Control calls are small and must notice a dead peer soon; data streams
 *  fill the link, so that their pings queue behind data and a tight keepalive would kill a
 *  healthy one. */
export type ChannelKind = 'control' | 'data';

const common: ChannelOptions = {
  // Repeating a call is our decision: every one is idempotent by an id of ours.
  'grpc.enable_retries': 0,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2000,
  // The image of a container that stands is larger than HTTP/2's own 64 KiB, and would wait for the receiver's word in between.
  'grpc-node.flow_control_window': limits.flowControlWindowBytes,
};

/** Options of a client's channel. */
export function channelOptions(kind: ChannelKind): ChannelOptions {
  if (kind === 'control') {
    return {
      ...common,
      'grpc.keepalive_time_ms': 5000,
      'grpc.keepalive_timeout_ms': 5000,
      'grpc.max_receive_message_length': limits.controlMessageBytes,
      'grpc.max_send_message_length': limits.controlMessageBytes,
    };
  }
  return {
    ...common,
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 60_000,
    'grpc.max_receive_message_length': limits.dataMessageBytes,
    'grpc.max_send_message_length': limits.dataMessageBytes,
    // A connection of its own: otherwise channels to one address share one, and pings wait behind
    // pages.
    'grpc.use_local_subchannel_pool': 1,
  };
}

/** Options of a server; it serves both kinds, so the larger message size holds. */
export function serverOptions(): ChannelOptions {
  return {
    'grpc.max_receive_message_length': limits.dataMessageBytes,
    'grpc.max_send_message_length': limits.dataMessageBytes,
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 60_000,
    'grpc.max_concurrent_streams': 1000,
  };
}
