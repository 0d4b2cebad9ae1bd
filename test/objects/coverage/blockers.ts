import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A blocker as the code has it. Values that are only known when it is met are `…`. */
export interface KnownBlocker {
  readonly code: string;
  readonly reason: string;
  readonly remedy: string;
}

/** Every object in TypeScript sources that has a code, a reason (or what) and a remedy: all blockers, wherever they are
 *  made. Sorted by code; each text once. */
export function blockersIn(folders: readonly string[]): KnownBlocker[] {
  const found = new Map<string, KnownBlocker>();
  for (const folder of folders) {
    for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      if (!file.endsWith('.ts') || file.includes('generated')) continue;
      const text = readFileSync(join(folder, file), 'utf8');
      for (const blocker of blockersOf(text)) {
        found.set(`${blocker.code} ${blocker.reason}`, blocker);
      }
    }
  }
  return [...found.values()].sort((a, b) => (a.code < b.code ? -1 : a.code > b.code ? 1 : 0));
}

/** Found by the words themselves: `code: 'a.b'`, and `reason:` and `remedy:` behind it in the same braces. */
export function blockersOf(text: string): KnownBlocker[] {
  const found: KnownBlocker[] = [];
  for (const match of text.matchAll(/\bcode: ['"]([\w.]+)['"]/g)) {
    const properties = propertiesBehind(text, match.index);
    const reason = properties.get('reason') ?? properties.get('what');
    const remedy = properties.get('remedy');
    if (reason !== undefined && remedy !== undefined)
      found.push({ code: match[1]!, reason, remedy });
  }
  return found;
}

/** Properties from `at` to the end of the object literal: those of literals within it are passed over. */
function propertiesBehind(text: string, at: number): Map<string, string> {
  const properties = new Map<string, string>();
  let depth = 0;
  let i = at;
  while (i < text.length && depth >= 0) {
    const quoted = literalAt(text, i);
    if (quoted !== undefined) {
      i = quoted.end;
      continue;
    }
    const name = depth === 0 ? /^(\w+)(:?)\s*/.exec(text.slice(i, i + 80)) : null;
    if (name !== null && !/\w/.test(text[i - 1] ?? '')) {
      const value = name[2] === ':' ? expressionAt(text, i + name[0].length) : '…';
      if (!properties.has(name[1]!)) properties.set(name[1]!, value);
      i += name[0].length;
      continue;
    }
    if ('{(['.includes(text[i]!)) depth++;
    if ('})]'.includes(text[i]!)) depth--;
    i++;
  }
  return properties;
}

/** A text that is put together from literals; what else it is made of is `…`. */
function expressionAt(text: string, at: number): string {
  let value = '';
  for (let i = at; ; ) {
    const literal = literalAt(text, i);
    if (literal === undefined) return value === '' ? '…' : `${value}…`;
    value += literal.text;
    const plus = /^\s*\+\s*/.exec(text.slice(literal.end, literal.end + 80));
    if (plus === null) return value;
    i = literal.end + plus[0].length;
  }
}

function literalAt(text: string, at: number): { text: string; end: number } | undefined {
  const quote = text[at]!;
  if (!['"', "'", '`'].includes(quote)) return undefined;
  let value = '';
  for (let i = at + 1; i < text.length; i++) {
    if (text[i] === quote) return { text: value, end: i + 1 };
    if (text[i] === '\\') value += text[++i];
    else if (quote === '`' && text.startsWith('${', i)) {
      for (let depth = 0; i < text.length; i++) {
        if (text[i] === '{') depth++;
        if (text[i] === '}' && --depth === 0) break;
      }
      value += '…';
    } else value += text[i];
  }
  return undefined;
}
