/** Middle, 99th percentile and largest of some measurements; NaN (in JSON null) where nothing was measured. */
export interface Figures {
  readonly median: number;
  readonly p99: number;
  readonly max: number;
}

export function figuresOf(values: readonly number[]): Figures {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number => sorted[Math.ceil(share * sorted.length) - 1] ?? Number.NaN;
  return { median: at(0.5), p99: at(0.99), max: at(1) };
}

/** One row of a benchmark of live migration, as its last line of JSON tells it. */
export interface LiveRow {
  readonly case: string;
  readonly mode: string;
  readonly runs: number;
  readonly freeze_ms: Figures;
  /** The longest that one client with a request under way all the time waited; NaN where there is no client. */
  readonly client_stall_ms: Figures;
  readonly total_ms: Figures;
  readonly raw_mib_s: number;
  readonly wire_mib_s: number;
  readonly errors: number;
  readonly rounds?: number;
  /** Medians of the parts that the migrations reported. */
  readonly parts_ms?: Readonly<Record<string, number>>;
}

/** What a benchmark is to reach, and whether it did. */
export interface Goal {
  readonly goal: string;
  readonly measured: number;
  readonly reached: boolean;
}

export interface BenchResult {
  readonly rows: readonly object[];
  readonly goals: readonly Goal[];
}

/** A goal of at most so much. */
export function atMost(goal: string, measured: number, bound: number): Goal {
  return { goal, measured, reached: measured <= bound };
}

/** A goal of at least so much. */
export function atLeast(goal: string, measured: number, bound: number): Goal {
  return { goal, measured, reached: measured >= bound };
}

/** Medians by name of what several migrations reported. */
export function medianParts(
  runs: readonly (readonly { readonly name: string; readonly ms: number }[])[],
): Record<string, number> {
  const byName = new Map<string, number[]>();
  for (const parts of runs) {
    for (const { name, ms } of parts) byName.set(name, [...(byName.get(name) ?? []), ms]);
  }
  return Object.fromEntries(
    [...byName].map(([name, values]) => [name, Math.round(figuresOf(values).median * 10) / 10]),
  );
}
