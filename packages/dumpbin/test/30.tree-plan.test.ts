import { deepEqual, throws } from 'node:assert/strict';
import { Namespace, Process, TreeImage } from '@ferry/image';
import { planTree } from '../src/tree-plan.js';

/** A tree of `[pid, ppid, sid, pgid?]`; the first is the root. */
function tree(...rows: [number, number, number, number?][]): TreeImage {
  return TreeImage.fromPartial({
    rootPid: rows[0]![0],
    ownPidNamespace: true,
    processes: rows.map(([pid, ppid, sid, pgid]) =>
      Process.fromPartial({ pid, ppid, sid, pgid: pgid ?? sid, exitSignal: 17, state: 'running' }),
    ),
  });
}

describe('who makes whom', () => {
  it('a parent makes its children, early ones before it makes its own session', () => {
    const plan = planTree(tree([10, 0, 10], [11, 10, 11], [12, 11, 10], [13, 11, 11]));
    deepEqual(plan.makingOf(11), { kind: 'child' });
    deepEqual(plan.makingOf(12), { kind: 'early' });
    deepEqual(plan.makingOf(13), { kind: 'child' });
  });

  it('a stand-in leads a session whose leader is gone', () => {
    const plan = planTree(tree([10, 0, 10], [12, 10, 11], [13, 12, 11], [14, 10, 11]));
    deepEqual(plan.standInsOf(10), [11]);
    deepEqual(plan.makingOf(12), { kind: 'sibling', maker: 11 });
    deepEqual(plan.makingOf(13), { kind: 'child' });
    deepEqual(
      plan.madeBy(11).map(({ pid }) => pid),
      [12, 14],
    );
  });

  it('a leader is born in the session of the children that it had before', () => {
    const plan = planTree(tree([10, 0, 10], [11, 10, 11], [12, 10, 12], [13, 12, 11]));
    deepEqual(plan.makingOf(12), { kind: 'sibling', maker: 11 });
    deepEqual(plan.makingOf(13), { kind: 'early' });
  });

  it('a living leader makes the orphans of its session', () => {
    const plan = planTree(tree([10, 0, 10], [11, 10, 11], [12, 10, 11]));
    deepEqual(plan.makingOf(12), { kind: 'sibling', maker: 11 });
  });

  it('an orphan of a leader further down is left to the nearest subreaper', () => {
    const plan = planTree(tree([10, 0, 10], [11, 10, 10], [12, 11, 12], [13, 10, 12]));
    deepEqual(plan.makingOf(13), { kind: 'orphan', maker: 12, between: 14 });
    deepEqual([...plan.adopters], [10]);
  });

  it('the first member holds a group whose leader is gone', () => {
    const plan = planTree(tree([10, 0, 10], [11, 10, 10, 20], [12, 10, 10, 20]));
    deepEqual(plan.groupsHeldBy(11), [20]);
    deepEqual(plan.groupsHeldBy(12), []);
  });

  it('a process leads the group that it has left until all have joined', () => {
    const plan = planTree(tree([10, 0, 10], [11, 10, 10, 10], [12, 10, 10, 11]));
    deepEqual([...plan.left], [11]);
  });

  it('refuses a session that nobody could have handed down', () => {
    const image = tree([10, 0, 10], [11, 10, 11], [12, 10, 12], [14, 11, 14], [13, 12, 14]);
    throws(() => planTree(image), { code: 'dumpbin.session' });
  });

  it('a group that a PID namespace does not show is led before who is in it there is made', () => {
    const image = tree([10, 0, 10], [11, 10, 10, 11], [12, 11, 10, 11], [13, 12, 10, 11]);
    image.namespaces = [Namespace.fromPartial({ id: 1, type: 'pid' })];
    for (const [i, process] of image.processes.slice(2).entries()) {
      Object.assign(process, { innerPids: [i + 1], innerPgids: [0], innerSids: [0] });
      process.namespaceIds = [1];
    }
    const plan = planTree(image);
    deepEqual([...plan.groupIsInherited], [12]);
    deepEqual([...plan.hosts], [12]);
    image.processes[3]!.pgid = 20;
    throws(() => planTree(image), /group 20, which its PID namespace does not show/);
  });
});
