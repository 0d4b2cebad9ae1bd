import type { UnixMessage } from '@ferry/image';
import type { Argument, DataRef, ProgramBuilder } from '../program.js';
import type { EmitContext } from './emit.js';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SCM_CREDENTIALS = 2;
const ESRCH = 3;

/** Sends a message as it was queued: its descriptions in flight and its sender's credentials come along. `to` is the
 *  receiver's address where the sender is not connected to it. */
export function emitSend(
  b: ProgramBuilder,
  message: UnixMessage,
  { from, to, ctx }: { from: Argument; to?: [Argument, number]; ctx: EmitContext },
): void {
  const { data, fileIds, credentials } = message;
  const name = `queued message of ${data.length} bytes`;
  const at = b.bytes(data);
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  const expect = { value: data.length };
  if (fileIds.length === 0 && credentials === undefined) {
    b.sys('sendto', [from, at, data.length, flags, ...(to ?? [0, 0])], name, { expect });
    return;
  }
  const header = b.reserve(56);
  const vector = b.words(0, data.length);
  b.storeAddress(at, vector, name);
  b.storeAddress(vector, header.plus(16), name);
  putWord(b, header.plus(24), 1, name);
  if (to !== undefined) {
    b.op('store', [header, to[0], 8], name);
    b.op('store', [header.plus(8), to[1], 4], name);
  }
  const control = controlMessages(message, ctx);
  b.storeAddress(b.bytes(control), header.plus(32), name);
  putWord(b, header.plus(40), control.length, name);
  // A sender that has ended cannot be named to the kernel: then the message is sent in our own name.
  const canFail = credentials !== undefined && credentials.pid !== 0;
  const result = b.slotFor('sent');
  b.sys('sendmsg', [from, header, flags], name, {
    into: result,
    expect: canFail ? { orErrno: ESRCH } : expect,
  });
  if (canFail) emitRetry(b, { header, from, flags, result, message, ctx, name });
}

function putWord(b: ProgramBuilder, at: DataRef, value: number, name: string): void {
  b.op('store', [at, value, 8], name);
}

/** Goes on behind the retry when the whole message was sent. */
function emitRetry(
  b: ProgramBuilder,
  options: {
    header: DataRef;
    from: Argument;
    flags: number;
    result: Argument;
    message: UnixMessage;
    ctx: EmitContext;
    name: string;
  },
): void {
  const { header, from, flags, result, message, ctx, name } = options;
  const sent = b.label();
  const { length } = message.data;
  b.op('jump', [result, length], name, { target: sent });
  const control = controlMessages({ ...message, credentials: undefined }, ctx);
  if (control.length > 0) b.storeAddress(b.bytes(control), header.plus(32), name);
  else putWord(b, header.plus(32), 0, name);
  putWord(b, header.plus(40), control.length, name);
  b.sys('sendmsg', [from, header, flags], name, { expect: { value: length } });
  b.place(sent);
}

/** struct cmsghdr of SCM_RIGHTS and SCM_CREDENTIALS: cmsg(3). */
function controlMessages({ fileIds, credentials }: UnixMessage, ctx: EmitContext): Buffer {
  const parts: Buffer[] = [];
  if (fileIds.length > 0) {
    const fds = Buffer.alloc(fileIds.length * 4);
    fileIds.forEach((id, i) => {
      fds.writeInt32LE(ctx.fdOf(id), i * 4);
    });
    parts.push(controlMessage(SCM_RIGHTS, fds));
  }
  if (credentials !== undefined && credentials.pid !== 0) {
    const raw = Buffer.alloc(12);
    raw.writeInt32LE(credentials.pid, 0);
    raw.writeUInt32LE(credentials.uid, 4);
    raw.writeUInt32LE(credentials.gid, 8);
    parts.push(controlMessage(SCM_CREDENTIALS, raw));
  }
  return Buffer.concat(parts);
}

function controlMessage(type: number, data: Buffer): Buffer {
  const out = Buffer.alloc(16 + ((data.length + 7) & ~7));
  out.writeBigUInt64LE(BigInt(16 + data.length), 0);
  out.writeInt32LE(SOL_SOCKET, 8);
  out.writeInt32LE(type, 12);
  data.copy(out, 16);
  return out;
}
