export { Credentials } from './generated/ferry/image/v1/credentials.js';
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
  RegularFile,
} from './generated/ferry/image/v1/file.js';
export {
  FileReference,
  Mm,
  PageRun,
  SharedMemory,
  Vma,
} from './generated/ferry/image/v1/mm.js';
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
  Membership,
  SocketBuffers,
  SocketOption,
  TcpState,
  UnixCredentials,
  UnixMessage,
  UnixPath,
  UnixSocket,
} from './generated/ferry/image/v1/socket.js';
export {
  Epoll,
  EpollTarget,
  EventFd,
  Fifo,
  PipeEnd,
  SignalFd,
  TimerFd,
} from './generated/ferry/image/v1/special.js';
export {
  IntervalTimer,
  PosixTimer,
} from './generated/ferry/image/v1/timer.js';
export {
  HostFacts,
  TreeImage,
} from './generated/ferry/image/v1/tree.js';
export * from './image-file.js';
export * from './validate.js';
export * from './version.js';
