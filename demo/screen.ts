/** What the demo shows while it works: phases, what happens in them, and bars. On a terminal a bar is redrawn in its
 *  line; elsewhere it is a line at each quarter. */
export class Screen {
  readonly #out: NodeJS.WriteStream;
  readonly #start = performance.now();
  #barOpen = false;
  #lastQuarter = -1;

  /** @param out  standard error when standard output is kept for JSON */
  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
  }

  phase(title: string): void {
    this.#line(`\n${this.#clock()} ${this.#bold(title)}`);
  }

  note(text: string): void {
    for (const line of text.split('\n')) this.#line(`         ${line}`);
  }

  /** Prints text as it is. */
  print(text: string): void {
    this.#line(text);
  }

  bar(label: string, done: number, total: number): void {
    const share = total === 0 ? 1 : Math.min(1, done / total);
    const filled = Math.round(share * 30);
    const bar = `${'█'.repeat(filled)}${'░'.repeat(30 - filled)}`;
    const text = `         ${label} ${bar} ${Math.round(share * 100)} %`;
    if (this.#out.isTTY) {
      this.#out.write(`\r${text}\x1b[K`);
      this.#barOpen = share < 1;
      if (!this.#barOpen) this.#out.write('\n');
      return;
    }
    const quarter = Math.floor(share * 4);
    if (quarter > this.#lastQuarter) this.#line(text);
    this.#lastQuarter = share === 1 ? -1 : quarter;
  }

  #line(text: string): void {
    if (this.#barOpen) this.#out.write('\n');
    this.#barOpen = false;
    this.#out.write(`${text}\n`);
  }

  #clock(): string {
    return `[${((performance.now() - this.#start) / 1000).toFixed(1).padStart(5)} s]`;
  }

  #bold(text: string): string {
    return this.#out.isTTY ? `\x1b[1m${text}\x1b[0m` : text;
  }
}
