import {
  type ContainerSpec,
  checkContainerName,
  checkId,
  checkNodeName,
  limits,
  type MigrationPolicy,
  type Mount,
} from '@ferry/api';
import { FerryError } from '@ferry/core';
import { parseIpv4 } from '../plan/addresses.js';

const modes = ['', 'auto', 'stop-copy', 'pre-copy', 'hybrid', 'post-copy'];
const waysOn = ['', 'throttle', 'post-copy', 'stop-copy', 'abort'];
const dayMs = 86_400_000;

/** A spec as it may go to an agent.
 *  @throws FerryError request.invalid, request.tooLarge */
export function checkSpec(spec: ContainerSpec | undefined): ContainerSpec {
  if (spec === undefined) throw refused('The request has no spec', 'give one');
  checkContainerName(spec.name);
  if ((spec.rootfs === '') === (spec.bundle === '')) {
    throw refused('A container needs either a rootfs or a bundle', 'give exactly one of the two');
  }
  checkPath('rootfs', spec.rootfs || spec.bundle);
  if (spec.rootfs !== '' && spec.args.length === 0) {
    throw refused('There is no program to run', 'name one; only a bundle brings its own');
  }
  if (spec.cwd !== '') checkPath('cwd', spec.cwd);
  checkTexts(spec);
  for (const entry of spec.env) {
    if (!/^[^=\0]+=[^\0]*$/.test(entry)) throw invalid(`Environment ${show(entry)}`, 'NAME=value');
  }
  if (spec.hostname !== '' && !/^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/.test(spec.hostname)) {
    throw invalid(`Host name ${show(spec.hostname)}`, 'use letters, digits, "." and "-"');
  }
  for (const mount of spec.mounts) checkMount(mount);
  checkNetwork(spec);
  return spec;
}

function checkTexts(spec: ContainerSpec): void {
  const texts = [...spec.args, ...spec.env, ...Object.entries(spec.labels).flat()];
  if (spec.args.length > limits.argsPerSpec || spec.env.length > limits.argsPerSpec) {
    throw tooLarge(`more than ${limits.argsPerSpec} arguments or environment variables`);
  }
  if (Object.keys(spec.labels).length > limits.labelsPerSpec) {
    throw tooLarge(`more than ${limits.labelsPerSpec} labels`);
  }
  if (spec.mounts.length > limits.mountsPerSpec) {
    throw tooLarge(`more than ${limits.mountsPerSpec} mounts`);
  }
  if (texts.some((text) => text.includes('\0'))) {
    throw refused('A text of the spec holds a NUL', 'remove it');
  }
  if (texts.reduce((sum, text) => sum + text.length, 0) > limits.specTotalChars) {
    throw tooLarge(`more than ${limits.specTotalChars} characters in all`);
  }
}

function checkMount(mount: Mount): void {
  checkPath('Mount source', mount.source);
  checkPath('Mount destination', mount.destination);
}

function checkPath(what: string, path: string): void {
  const parts = path.split('/');
  const plain = path.startsWith('/') && !parts.includes('..') && !path.includes('\0');
  if (plain && path.length <= limits.specStringChars) return;
  throw invalid(`${what} ${show(path)}`, 'give an absolute path without ".."');
}

function checkNetwork(spec: ContainerSpec): void {
  const { network } = spec;
  if (network === undefined) return;
  const { address, gateway, mac } = network;
  const [ip = '', prefix = ''] = address.split('/');
  if (address !== '' && !(/^[0-9]{1,2}$/.test(prefix) && Number(prefix) <= 32)) {
    throw invalid(`Address ${show(address)}`, 'write it with its prefix length: 10.77.1.5/16');
  }
  if (address !== '') parseIpv4(ip);
  if (gateway !== '') parseIpv4(gateway);
  if (mac !== '' && !/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac)) {
    throw invalid(`MAC address ${show(mac)}`, 'write six pairs of hexadecimal digits with ":"');
  }
}

/** @throws FerryError request.invalid */
export function checkMode(mode: string): string {
  if (modes.includes(mode)) return mode;
  throw invalid(
    `Mode ${show(mode)}`,
    'use "auto", "pre-copy", "hybrid", "post-copy" or "stop-copy"',
  );
}

/** @throws FerryError request.invalid */
export function checkPolicy(policy: MigrationPolicy | undefined): MigrationPolicy | undefined {
  if (policy === undefined) return undefined;
  const { maxDowntimeMs, maxRounds, roundsTimeoutMs, onNoConvergence } = policy;
  checkWithin(maxDowntimeMs, { what: 'The downtime', max: dayMs });
  checkWithin(maxRounds, { what: 'The number of rounds', max: 1000 });
  checkWithin(roundsTimeoutMs, { what: 'The time for the rounds', max: dayMs });
  if (waysOn.includes(onNoConvergence)) return policy;
  const remedy = `use one of${waysOn.map((way) => (way === '' ? '' : ` "${way}"`)).join('')}`;
  throw invalid(`${show(onNoConvergence)} without convergence`, remedy);
}

/** @throws FerryError request.invalid */
export function checkRequestId(id: string): string {
  return id === '' ? id : checkId(id, 'Request id');
}

/** @throws FerryError request.invalid */
export function optionalNode(name: string): string {
  return name === '' ? name : checkNodeName(name);
}

/** @throws FerryError request.invalid */
export function checkWithin(
  value: number,
  range: { readonly what: string; readonly max: number },
): number {
  if (value <= range.max) return value;
  throw invalid(`${range.what} ${value}`, `at most ${range.max}`);
}

export function invalid(what: string, remedy: string): FerryError {
  return refused(`${what} is not valid`, remedy);
}

/** @param message  a whole sentence */
export function refused(message: string, remedy: string): FerryError {
  return new FerryError('request.invalid', message, { remedy });
}

function tooLarge(what: string): FerryError {
  return new FerryError('request.tooLarge', `The spec has ${what}`, { remedy: 'make it smaller' });
}

function show(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}

/** The public half of a key for a checkpoint; empty: none.
 *  @throws FerryError request.invalid */
export function checkSealFor(bytes: Buffer): Buffer {
  if (bytes.length === 0 || bytes.length === 32) return bytes;
  throw refused('The key for the checkpoint is not valid', 'give 32 bytes, X25519, or none');
}
