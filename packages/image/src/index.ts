export {
  ControlGroup,
  ControlGroupFile,
  ControlGroupLevel,
} from './generated/ferry/image/v1/cgroup.js';
export { Credentials, SecurityLabels } from './generated/ferry/image/v1/credentials.js';
export {
  CharacterDevice,
  Directory,
  External,
  FileLock,
  FileObject,
  FileOwner,
  Memfd,
  NamespaceFd,
  PidFd,
  ProcFile,
  RegularFile,
} from './generated/ferry/image/v1/file.js';
export {
  Ipc,
  IpcPermissions,
  Message,
  MessageQueue,
  MessageQueueFd,
  PosixMessage,
  PosixQueue,
  SemaphoreSet,
  SysvSegment,
} from './generated/ferry/image/v1/ipc.js';
export {
  AioRing,
  FileReference,
  Mm,
  PageRun,
  SharedMemory,
  Vma,
} from './generated/ferry/image/v1/mm.js';
export { ExtendedAttribute, FileExtent, Nameless } from './generated/ferry/image/v1/nameless.js';
export {
  DataRun,
  KernelSetting,
  Mount,
  MountNamespace,
  Namespace,
  NetworkNamespace,
  TimeNamespace,
  TreeEntry,
  UserNamespace,
  UtsNamespace,
} from './generated/ferry/image/v1/namespace.js';
export {
  Fanotify,
  FanotifyMark,
  Inotify,
  InotifyWatch,
} from './generated/ferry/image/v1/notify.js';
export {
  FileDescriptor,
  FsState,
  Process,
  ProcessAttributes,
  Registers,
  Rlimit,
  Rseq,
  Scheduling,
  SeccompFilter,
  SemaphoreAdjustment,
  Thread,
} from './generated/ferry/image/v1/process.js';
export {
  AltStack,
  PendingSignal,
  SignalAction,
} from './generated/ferry/image/v1/signal.js';
export {
  Datagram,
  InetSocket,
  InetWaiting,
  Membership,
  SocketBuffers,
  SocketOption,
  TcpState,
  UnixCredentials,
  UnixMessage,
  UnixPath,
  UnixSocket,
  UnixWaiting,
} from './generated/ferry/image/v1/socket.js';
export {
  BpfMap,
  Epoll,
  EpollTarget,
  EventFd,
  Fifo,
  PipeEnd,
  SignalFd,
  TimerFd,
  TunQueue,
} from './generated/ferry/image/v1/special.js';
export {
  NetlinkSocket,
  PacketMembership,
  PacketSocket,
} from './generated/ferry/image/v1/special-socket.js';
export { Terminal, TerminalPair } from './generated/ferry/image/v1/terminal.js';
export {
  IntervalTimer,
  PosixTimer,
} from './generated/ferry/image/v1/timer.js';
export {
  HostFacts,
  TreeImage,
} from './generated/ferry/image/v1/tree.js';
export * from './image-file.js';
export * from './inner-ids.js';
export * from './kept-memory.js';
export * from './limits.js';
export * from './losses.js';
export * from './temporary-name.js';
export * from './validate.js';
export * from './version.js';
