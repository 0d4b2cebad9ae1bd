/** How what waits in a terminal is put there again. */

const LOCAL_AT = 12;
const LETTERS_AT = 17;
const LETTERS = 19;
const VEOF = 4;
const VSTOP = 9;
const ICANON = 2;
const IXON = 0o2000;
const NEWLINE = 10;

export function isCanonical(settings: Uint8Array): boolean {
  return (Buffer.from(settings).readUInt32LE(LOCAL_AT) & ICANON) !== 0;
}

/** What is typed to stop output; undefined where no letter does. */
export function stopLetter(settings: Uint8Array): Buffer | undefined {
  const letter = settings[LETTERS_AT + VSTOP]!;
  const stops = (Buffer.from(settings).readUInt32LE(0) & IXON) !== 0 && letter !== 0;
  return stops ? Buffer.of(letter) : undefined;
}

/** struct termios2 under which everything that is written arrives as it is: nothing is echoed, no letter means anything but,
 *  in canonical mode, the one that ends a line.
 *  @param end  a letter that is not in the data */
export function transparentSettings(settings: Uint8Array, end: number): Buffer {
  const canonical = isCanonical(settings);
  const plain = Buffer.from(settings);
  plain.writeUInt32LE(0, 0);
  plain.writeUInt32LE(0, 4);
  plain.writeUInt32LE(canonical ? ICANON : 0, LOCAL_AT);
  plain.fill(0, LETTERS_AT, LETTERS_AT + LETTERS);
  if (canonical) plain[LETTERS_AT + VEOF] = end;
  return plain;
}

/** What to type for the pieces to be read again as they were: pieces that do not end a line get its end. */
export function typedBytes(
  { typed, lastIsUnfinished }: { typed: readonly Uint8Array[]; lastIsUnfinished: boolean },
  end: number,
): Buffer {
  return Buffer.concat(
    typed.flatMap((piece, i) => {
      const isWhole = piece.at(-1) === NEWLINE || (lastIsUnfinished && i === typed.length - 1);
      return isWhole ? [piece] : [piece, Buffer.of(end)];
    }),
  );
}

/** A letter that occurs nowhere, for the end of a line. */
export function unusedLetter(pieces: readonly Uint8Array[]): number {
  for (let letter = 1; letter < 256; letter++) {
    if (letter !== NEWLINE && pieces.every((piece) => !piece.includes(letter))) return letter;
  }
  return 4;
}
