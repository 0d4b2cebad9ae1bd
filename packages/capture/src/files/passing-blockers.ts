/** Blockers that are moments in a program's life: it has only to run on for them to pass. */
export const passingBlockers: ReadonlySet<string> = new Set([
  'file.unread',
  'ipc.fleetingSegment',
  'process.tiles',
  'socket.corked',
  'socket.handshake',
  'socket.netlinkPending',
  'socket.tcpPending',
  'socket.unixPending',
  'socket.unixPendingData',
  'socket.urgentData',
]);
