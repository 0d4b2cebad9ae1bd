import type { OwnedFd } from './fd.js';
import { type NativeEvents, native } from './native.js';
import { sysError } from './sys.js';

/** Reads the events of userfaultfds, at once, on a thread of its own, for the program whose event it is stands until then;
 *  and counts them. Children that are forked are followed: their writes are noted as their parent's. */
export class UserfaultEvents implements Disposable {
  #native: NativeEvents | undefined = native.userfaultEvents();

  /** @param fd  a userfaultfd that does not block; to be closed after this was ended */
  add(fd: OwnedFd): void {
    const result = native.userfaultEventsAdd(this.#running(), fd.number);
    if (result < 0) throw sysError('epoll_ctl', -result);
  }

  /** Events so far. What has happened in a program is counted before the program goes on. */
  get count(): number {
    return native.userfaultEventsCount(this.#running());
  }

  #running(): NativeEvents {
    if (this.#native === undefined) throw new Error('The events were ended');
    return this.#native;
  }

  /** Repeatable. */
  [Symbol.dispose](): void {
    if (this.#native !== undefined) native.userfaultEventsEnd(this.#native);
    this.#native = undefined;
  }
}
