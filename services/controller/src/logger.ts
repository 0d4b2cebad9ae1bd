/** One JSON object per line on stderr: `time`, `level`, `msg`, then the fields of the event. */
export interface Logger {
  debug(msg: string, fields?: LogFields): void;
  info(msg: string, fields?: LogFields): void;
  warn(msg: string, fields?: LogFields): void;
  error(msg: string, fields?: LogFields): void;
}
export type LogFields = Readonly<Record<string, unknown>>;

export const logLevels = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

/** @param write  takes one line with its newline */
export function jsonLogger(level: LogLevel, write: (line: string) => void): Logger {
  const least = logLevels.indexOf(level);
  const at =
    (name: LogLevel) =>
    (msg: string, fields: LogFields = {}) => {
      if (logLevels.indexOf(name) < least) return;
      const line = { time: new Date().toISOString(), level: name, msg, ...fields };
      write(`${JSON.stringify(line, jsonSafe)}\n`);
    };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

function jsonSafe(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}
