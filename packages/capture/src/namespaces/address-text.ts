/** An address of 8 or 32 hex digits as ip(8) takes it. */
export function textOf(address: string): string {
  if (address.length === 8) return [...Buffer.from(address, 'hex')].join('.');
  const groups = address.match(/.{4}/g) ?? [];
  const text = groups.map((group) => Number.parseInt(group, 16).toString(16)).join(':');
  const [run] = [...text.matchAll(/(?:^|:)0(?::0)+(?=:|$)/g)].toSorted(
    (a, b) => b[0].length - a[0].length,
  );
  if (run === undefined) return text;
  const tail = text.slice(run.index + run[0].length).replace(/^:/, '');
  return `${text.slice(0, run.index)}::${tail}`;
}
