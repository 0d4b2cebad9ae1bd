import { errorText, FerryError } from '@ferry/core';
import { Metadata, type ServiceError, type StatusObject, status } from '@grpc/grpc-js';
import { ErrorDetail, type Problem } from './generated/ferry/cluster/v1/common.js';
import { limits } from './limits.js';

/** Where a failed call carries its ErrorDetail; generic clients see code and message in the
 *  status as usual. */
const detailKey = 'ferry-error-bin';

/** A FerryError that knows the single findings behind it, and for a failed call its gRPC status. */
export class ApiError extends FerryError {
  readonly problems: readonly Problem[];
  /** The gRPC status code of a failed call. */
  readonly status: number | undefined;

  constructor(
    detail: Partial<ErrorDetail> & { code: string; message: string },
    options: { cause?: unknown; status?: number } = {},
  ) {
    super(detail.code, detail.message, {
      ...(options.cause === undefined ? {} : { cause: options.cause }),
      ...(detail.remedy ? { remedy: detail.remedy } : {}),
    });
    this.name = 'ApiError';
    this.problems = detail.problems ?? [];
    this.status = options.status;
  }
}

/** Last word of a FerryError's code → gRPC status; any other FerryError is FAILED_PRECONDITION. */
const statusBySuffix: Readonly<Record<string, number>> = {
  unknown: status.NOT_FOUND,
  exists: status.ALREADY_EXISTS,
  taken: status.ALREADY_EXISTS,
  invalid: status.INVALID_ARGUMENT,
  unavailable: status.UNAVAILABLE,
  cancelled: status.CANCELLED,
  deadline: status.DEADLINE_EXCEEDED,
  tooLarge: status.RESOURCE_EXHAUSTED,
  limit: status.RESOURCE_EXHAUSTED,
  unimplemented: status.UNIMPLEMENTED,
  internal: status.INTERNAL,
  noSpace: status.RESOURCE_EXHAUSTED,
  noMemory: status.RESOURCE_EXHAUSTED,
  noDescriptors: status.RESOURCE_EXHAUSTED,
  denied: status.PERMISSION_DENIED,
  unauthenticated: status.UNAUTHENTICATED,
};

/** What a host has run out of, as errno(3) says it, and what to do about it. */
const exhausted: Readonly<Record<string, { code: string; remedy: string }>> = {
  ENOSPC: {
    code: 'host.noSpace',
    remedy:
      "free space on the host's disk (df -h; the agent's --state-dir and --run-dir), then try again",
  },
  EDQUOT: {
    code: 'host.noSpace',
    remedy: "raise the disk quota of the agent's folders, then try again",
  },
  EROFS: {
    code: 'host.readOnly',
    remedy:
      "mount the file system of the agent's --state-dir and --run-dir read-write, then try again",
  },
  ENOMEM: { code: 'host.noMemory', remedy: 'free memory on the host, then try again' },
  EMFILE: {
    code: 'host.noDescriptors',
    remedy: "raise the agent's limit of open files (LimitNOFILE, ulimit -n), then start it again",
  },
};

interface ErrorLike {
  code?: unknown;
  remedy?: unknown;
  problems?: unknown;
}

/** What is told of any thrown thing. Errors that are not FerryErrors become `internal`, text
 *  kept. */
export function toErrorDetail(error: unknown): ErrorDetail {
  if (!(error instanceof Error)) return failure('internal', String(error), undefined, []);
  const like = error as ErrorLike;
  const host = exhausted[String(like.code)];
  if (host !== undefined) return failure(host.code, errorText(error), host.remedy, []);
  // Not `instanceof FerryError`: a second copy of the package has another class.
  const known =
    typeof like.code === 'string' && /^[a-z][A-Za-z]*(\.[A-Za-z0-9]+)*$/.test(like.code);
  const problems = Array.isArray(like.problems) ? (like.problems as Problem[]) : [];
  const remedy = typeof like.remedy === 'string' ? like.remedy : undefined;
  return failure(known ? String(like.code) : 'internal', errorText(error), remedy, problems);
}

function failure(
  code: string,
  message: string,
  remedy: string | undefined,
  problems: readonly Problem[],
): ErrorDetail {
  const short = (text: string) => text.slice(0, limits.errorTextChars);
  return {
    code: short(code),
    message: short(message),
    remedy: short(remedy ?? ''),
    problems: problems.map((problem) => ({
      code: short(problem.code ?? ''),
      object: short(problem.object ?? ''),
      reason: short(problem.reason ?? ''),
      remedy: short(problem.remedy ?? ''),
    })),
  };
}

/** The other way: an error to throw from a detail found in an answer. */
export function fromErrorDetail(detail: ErrorDetail): ApiError {
  return new ApiError({ ...detail, code: detail.code === '' ? 'internal' : detail.code });
}

/** Any thrown thing as what a gRPC server sends. */
export function toStatus(error: unknown): Partial<StatusObject> & { code: number } {
  const detail = toErrorDetail(error);
  const metadata = new Metadata();
  metadata.set(detailKey, encodeDetail(detail));
  return { code: statusCodeOf(detail.code), details: detail.message, metadata };
}

/** Status code for an error code such as `node.unknown`. */
export function statusCodeOf(code: string): number {
  const suffix = code.slice(code.lastIndexOf('.') + 1);
  return statusBySuffix[suffix] ?? status.FAILED_PRECONDITION;
}

/** Leaves out findings, last first, until the rest fits a header. */
function encodeDetail(detail: ErrorDetail): Buffer {
  const problems = [...detail.problems];
  for (;;) {
    const bytes = Buffer.from(ErrorDetail.encode({ ...detail, problems }).finish());
    if (bytes.length <= limits.errorDetailBytes || problems.length === 0) return bytes;
    problems.pop();
  }
}

/** Codes given to failures that no Ferry server described: the transport's own, or another
 *  server's. */
const codeByStatus: Readonly<Record<number, string>> = {
  [status.CANCELLED]: 'rpc.cancelled',
  [status.DEADLINE_EXCEEDED]: 'rpc.deadline',
  [status.UNAVAILABLE]: 'rpc.unavailable',
  [status.UNIMPLEMENTED]: 'rpc.unimplemented',
  [status.RESOURCE_EXHAUSTED]: 'rpc.tooLarge',
  [status.INVALID_ARGUMENT]: 'rpc.invalid',
  [status.NOT_FOUND]: 'rpc.unknown',
};

/** What a failed client call becomes.
 *  @param target  HOST:PORT, for the text of a failure to connect */
export function fromServiceError(error: ServiceError, target: string): ApiError {
  const [raw] = error.metadata?.get(detailKey) ?? [];
  if (Buffer.isBuffer(raw)) {
    const detail = decodeDetail(raw);
    if (detail !== undefined) return new ApiError(detail, { status: error.code });
  }
  const code = codeByStatus[error.code] ?? 'rpc.failed';
  if (code === 'rpc.unavailable') {
    const remedy =
      'check the address, that the service runs there, and the certificates of both sides (--tls)';
    return new ApiError(
      { code, message: `Nobody answers at ${target} (${error.details})`, remedy },
      { status: error.code },
    );
  }
  const message = `Call to ${target} failed: ${error.details || error.message}`;
  return new ApiError({ code, message }, { status: error.code });
}

function decodeDetail(bytes: Buffer): ErrorDetail | undefined {
  try {
    const detail = ErrorDetail.decode(bytes);
    return detail.code === '' ? undefined : detail;
  } catch {
    return undefined; // not ours: the status alone speaks
  }
}
