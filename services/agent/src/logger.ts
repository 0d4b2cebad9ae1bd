import type { Logger } from '@ferry/migration';

export const logLevels = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

/** One JSON object per line: `time`, `level`, `msg`, then the fields of the event.
 *  @param write  takes one line with its newline */
export function jsonLogger(level: LogLevel, write: (line: string) => void): Logger {
  const least = logLevels.indexOf(level);
  const at =
    (name: LogLevel) =>
    (msg: string, fields: Readonly<Record<string, unknown>> = {}) => {
      if (logLevels.indexOf(name) < least) return;
      const line = { time: new Date().toISOString(), level: name, msg, ...fields };
      write(`${JSON.stringify(line, jsonSafe)}\n`);
    };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

function jsonSafe(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}
