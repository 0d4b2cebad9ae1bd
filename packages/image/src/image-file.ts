import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errorText, FerryError } from '@ferry/core';
import { hash64 } from '@ferry/linux';
import { TreeImage } from './generated/ferry/image/v1/tree.js';
import { LIMITS } from './limits.js';
import { validateTree } from './validate.js';
import { IMAGE_FORMAT } from './version.js';

/** The file of an image directory that holds the tree's image; PID.dump files stand beside it. */
export const TREE_FILE = 'tree.img';
const MAGIC = 'FyTree\x00\x01';
const HEAD = 24;

/** An image with what is needed to check it: magic, XXH64 of the message, its length, the message. */
export function encodeTreeFile(image: TreeImage): Buffer {
  const body = Buffer.from(TreeImage.encode(image).finish());
  const head = Buffer.alloc(HEAD);
  head.write(MAGIC, 0, 'latin1');
  head.writeBigUInt64LE(hash64(body), 8);
  head.writeBigUInt64LE(BigInt(body.length), 16);
  return Buffer.concat([head, body]);
}

/** The image in a file that may come from anywhere.
 *  @throws FerryError image.damaged, image.format */
export function decodeTreeFile(bytes: Buffer, name: string): TreeImage {
  const damaged = (why: string): FerryError =>
    new FerryError('image.damaged', `${name} is damaged: ${why}`, {
      remedy: 'take the image from where it was made again',
    });
  if (bytes.length < HEAD || bytes.toString('latin1', 0, 8) !== MAGIC)
    throw damaged('it does not begin as an image does');
  if (bytes.length > LIMITS.treeBytes) throw damaged(`it has more than ${LIMITS.treeBytes} bytes`);
  if (bytes.readBigUInt64LE(16) !== BigInt(bytes.length - HEAD))
    throw damaged('its length is wrong');
  const body = bytes.subarray(HEAD);
  if (hash64(body) !== bytes.readBigUInt64LE(8)) throw damaged('its hash does not match');
  return decodeTree(body, name);
}

/** A bare encoded image, as a migration sends it. */
export function decodeTree(body: Uint8Array, name: string): TreeImage {
  let image: TreeImage;
  try {
    image = TreeImage.decode(body);
  } catch (error) {
    throw new FerryError('image.damaged', `${name} cannot be decoded: ${errorText(error)}`);
  }
  if (image.format !== IMAGE_FORMAT) {
    throw new FerryError(
      'image.format',
      `${name} has format ${image.format}; this Ferry reads ${IMAGE_FORMAT}`,
      {
        remedy: 'restore it with the version of Ferry that made it',
      },
    );
  }
  validateTree(image);
  return image;
}

/** The image of a directory that `ferry dump` made. */
export function readImageFolder(folder: string): TreeImage {
  const path = join(folder, TREE_FILE);
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new FerryError('image.missing', `${folder} holds no image`, {
      cause: error,
      remedy: 'give the directory that "ferry dump --out" made',
    });
  }
  return decodeTreeFile(bytes, path);
}
