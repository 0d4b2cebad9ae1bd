import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { FerryError } from '@ferry/core';

/** A file that only the holder of a key can read, and in which nobody can change, move, leave out or add anything.
 *
 *      "FERRYENC"  version (u32)  0 (u32)
 *      key id (8): of whom it is sealed for       ephemeral X25519 key (32)
 *      the file's own key (32), sealed with AES-256-GCM under the secret that both X25519 keys give, and its tag (16)
 *      frames: length (u32)  AES-256-GCM of at most 1 MiB  tag (16)
 *
 *  Each file has a random key of its own. The nonce of a frame is its number and whether it is the last, so frames cannot
 *  be cut off or swapped; the file's head is authenticated with each. Writing takes the public half of a key only: a host
 *  that writes checkpoints cannot read them. Numbers are little-endian. */
const MAGIC = 'FERRYENC';
const VERSION = 1;
const KEY_BYTES = 32;
const TAG_BYTES = 16;
const HEAD_BYTES = 16 + 8 + KEY_BYTES + KEY_BYTES + TAG_BYTES;
const FRAME_BYTES = 1 << 20;
const ALGORITHM = 'aes-256-gcm';
/** What a public key in DER begins with (RFC 8410); the rest are its 32 bytes. */
const SPKI_HEAD = Buffer.from('302a300506032b656e032100', 'hex');

/** The public half of a key, 32 bytes: who it is given to can seal, and not open. */
export function publicHalf(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' }).subarray(SPKI_HEAD.length);
}

export function newSealKey(): KeyObject {
  return generateKeyPairSync('x25519').privateKey;
}

/** @throws FerryError key.invalid */
export function parseSealKey(pem: string | Buffer): KeyObject {
  try {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType !== 'x25519')
      throw new Error(`It is of the kind ${key.asymmetricKeyType}`);
    return key;
  } catch (cause) {
    throw new FerryError('key.invalid', 'This is not a key for checkpoints', {
      cause,
      remedy: 'make one with "ferry key init"',
    });
  }
}

/** Eight bytes that say which key a file is for. */
function keyId(publicKey: Buffer): Buffer {
  return createHash('sha256').update(publicKey).digest().subarray(0, 8);
}

function publicKeyOf(bytes: Buffer): KeyObject {
  if (bytes.length !== KEY_BYTES) {
    throw new FerryError('key.invalid', `A public key has ${KEY_BYTES} bytes, not ${bytes.length}`);
  }
  return createPublicKey({ key: Buffer.concat([SPKI_HEAD, bytes]), format: 'der', type: 'spki' });
}

/** The key that seals the file's own key. */
function wrappingKey(
  halves: { privateKey: KeyObject; publicKey: KeyObject },
  ephemeral: Buffer,
  recipient: Buffer,
): Buffer {
  const secret = diffieHellman(halves);
  const salt = Buffer.concat([ephemeral, recipient]);
  return Buffer.from(hkdfSync('sha256', secret, salt, 'ferry checkpoint key', KEY_BYTES));
}

function nonceOf(frame: number, { last }: { last: boolean }): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeBigUInt64LE(BigInt(frame), 0);
  nonce[11] = last ? 1 : 0;
  return nonce;
}

/** Seals what is written, frame by frame. */
export class SealedWriter {
  readonly #file: Pick<FileHandle, 'writeFile'>;
  readonly #key: Buffer;
  readonly #head: Buffer;
  #frame = 0;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  /** Of the file so far. */
  bytes = 0;

  private constructor(file: Pick<FileHandle, 'writeFile'>, key: Buffer, head: Buffer) {
    this.#file = file;
    this.#key = key;
    this.#head = head;
  }

  /** Begins a sealed file.
   *  @param recipient  public half of the key that will open it */
  static async begin(
    file: Pick<FileHandle, 'writeFile'>,
    recipient: Buffer,
  ): Promise<SealedWriter> {
    const pair = generateKeyPairSync('x25519');
    const ephemeral = publicHalf(pair.privateKey);
    const halves = { privateKey: pair.privateKey, publicKey: publicKeyOf(recipient) };
    const key = randomBytes(KEY_BYTES);
    const wrapping = wrappingKey(halves, ephemeral, recipient);
    const cipher = createCipheriv(ALGORITHM, wrapping, Buffer.alloc(12));
    const wrapped = Buffer.concat([cipher.update(key), cipher.final(), cipher.getAuthTag()]);
    const start = Buffer.alloc(16);
    start.write(MAGIC, 'latin1');
    start.writeUInt32LE(VERSION, 8);
    const head = Buffer.concat([start, keyId(recipient), ephemeral, wrapped]);
    const writer = new SealedWriter(file, key, head);
    await file.writeFile(head);
    writer.bytes = head.length;
    return writer;
  }

  async write(...buffers: readonly Buffer[]): Promise<void> {
    for (const buffer of buffers) {
      for (let at = 0; at < buffer.length; ) {
        // A full frame waits until it is known not to be the last.
        if (this.#waitingBytes === FRAME_BYTES) await this.#seal({ last: false });
        const part = buffer.subarray(at, at + FRAME_BYTES - this.#waitingBytes);
        this.#waiting.push(part);
        this.#waitingBytes += part.length;
        at += part.length;
      }
    }
    // What is kept beyond this call must not change under us.
    this.#waiting = this.#waitingBytes === 0 ? [] : [Buffer.concat(this.#waiting)];
  }

  /** Marks the end. */
  async finish(): Promise<void> {
    await this.#seal({ last: true });
  }

  async #seal(end: { last: boolean }): Promise<void> {
    const cipher = createCipheriv(ALGORITHM, this.#key, nonceOf(this.#frame, end));
    cipher.setAAD(this.#head);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(this.#waitingBytes);
    const parts = this.#waiting.map((part) => cipher.update(part));
    const frame = Buffer.concat([length, ...parts, cipher.final(), cipher.getAuthTag()]);
    this.#frame += 1;
    this.#waiting = [];
    this.#waitingBytes = 0;
    await this.#file.writeFile(frame);
    this.bytes += frame.length;
  }
}

/** Whether a file begins as a sealed one. */
export function isSealed(start: Buffer): boolean {
  return start.toString('latin1', 0, MAGIC.length) === MAGIC;
}

/** Opens a sealed file from its start. The file may come from anywhere. */
export class SealedReader {
  readonly #file: FileHandle;
  readonly #key: Buffer;
  readonly #head: Buffer;
  #at = HEAD_BYTES;
  #frame = 0;
  #over = false;

  private constructor(file: FileHandle, key: Buffer, head: Buffer) {
    this.#file = file;
    this.#key = key;
    this.#head = head;
  }

  /** @throws FerryError key.missing, key.other, checkpoint.damaged, checkpoint.version */
  static async open(file: FileHandle, key: KeyObject | undefined): Promise<SealedReader> {
    const head = await readFully(file, HEAD_BYTES, 0);
    if (head.readUInt32LE(8) !== VERSION) {
      throw new FerryError('checkpoint.version', 'The checkpoint is sealed in another way', {
        remedy: 'restore it with the version of Ferry that wrote it',
      });
    }
    const id = head.subarray(16, 24);
    if (key === undefined) {
      throw new FerryError('key.missing', 'The checkpoint is encrypted, and there is no key', {
        remedy: `give the key file ${id.toString('hex')} with --key FILE (or FERRY_KEY)`,
      });
    }
    const recipient = publicHalf(key);
    if (!keyId(recipient).equals(id)) {
      throw new FerryError('key.other', 'The checkpoint is encrypted for another key', {
        remedy: `give the key file ${id.toString('hex')}; this one is ${keyId(recipient).toString('hex')}`,
      });
    }
    const ephemeral = head.subarray(24, 56);
    try {
      const halves = { privateKey: key, publicKey: publicKeyOf(ephemeral) };
      const wrapping = wrappingKey(halves, ephemeral, recipient);
      const decipher = createDecipheriv(ALGORITHM, wrapping, Buffer.alloc(12));
      decipher.setAuthTag(head.subarray(HEAD_BYTES - TAG_BYTES));
      const own = decipher.update(head.subarray(56, 56 + KEY_BYTES));
      return new SealedReader(file, Buffer.concat([own, decipher.final()]), head);
    } catch (cause) {
      throw damaged('its head', cause);
    }
  }

  /** The content of the next frame; undefined after the last.
   *  @throws FerryError checkpoint.damaged */
  async next(): Promise<Buffer | undefined> {
    if (this.#over) return undefined;
    const length = (await readFully(this.#file, 4, this.#at)).readUInt32LE();
    if (length > FRAME_BYTES) throw damaged(`frame ${this.#frame}`);
    const sealed = await readFully(this.#file, length + TAG_BYTES, this.#at + 4);
    this.#at += 4 + sealed.length;
    const { size } = await this.#file.stat();
    this.#over = this.#at >= size;
    const nonce = nonceOf(this.#frame, { last: this.#over });
    try {
      const decipher = createDecipheriv(ALGORITHM, this.#key, nonce);
      decipher.setAAD(this.#head);
      decipher.setAuthTag(sealed.subarray(length));
      const content = decipher.update(sealed.subarray(0, length));
      decipher.final();
      this.#frame += 1;
      return content;
    } catch (cause) {
      throw damaged(`frame ${this.#frame}`, cause);
    }
  }
}

/** Gives so many bytes at a time from a sealed file. */
export class SealedStream {
  readonly #reader: SealedReader;
  #rest: Buffer = Buffer.alloc(0);

  constructor(reader: SealedReader) {
    this.#reader = reader;
  }

  /** @returns fewer bytes only where the file ends */
  async read(length: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let left = length; left > 0; ) {
      if (this.#rest.length === 0) {
        const frame = await this.#reader.next();
        if (frame === undefined) break;
        this.#rest = frame;
        continue;
      }
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      parts.push(part);
      left -= part.length;
    }
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }
}

async function readFully(file: FileHandle, length: number, at: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(buffer, done, length - done, at + done);
    if (bytesRead === 0) throw damaged(`byte ${at + done}, where it ends too early`);
    done += bytesRead;
  }
  return buffer;
}

function damaged(where: string, cause?: unknown): FerryError {
  return new FerryError('checkpoint.damaged', `The encrypted checkpoint is damaged at ${where}`, {
    ...(cause === undefined ? {} : { cause }),
    remedy: 'use another copy of the file',
  });
}
