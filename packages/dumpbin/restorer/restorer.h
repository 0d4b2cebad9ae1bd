/* What the restorer's source files share. */
#ifndef FERRY_RESTORER_H
#define FERRY_RESTORER_H

#pragma GCC visibility push(hidden)

#include "kernel.h"
#include "plan.h"

/* Exit statuses of a restore that did not come about. */
#define STATUS_USAGE 64
#define STATUS_DAMAGED 65
#define STATUS_PID_TAKEN 75
#define STATUS_OTHER_FAILED 97
#define STATUS_STEP_FAILED 98

/* Slots of the main task of a process; threads bring their own. */
#define SLOT_COUNT 256

/* Runs operations from `index` on; ends by leaving into the restored process. */
__attribute__((noreturn)) void run_program(const struct plan_header *h, uint64_t index, uint64_t *slots);

/* clone3(2) with a chosen pid (0: any); returns as fork(2) does. */
long clone_process(uint64_t pid, uint64_t flags, uint64_t exit_signal);

/* The same with a chosen pid in each of `count` nested PID namespaces, the innermost first. */
long clone_numbered(const uint32_t *pids, uint64_t count, uint64_t flags, uint64_t exit_signal);

/* Writes a text to /proc/PID/NAME ("self" for pid 0); the kernel wants each of these files written in one go. */
long write_proc(long pid, const char *name, uint64_t text, uint64_t length);

/* Sets the clocks of the time namespace that the caller's children are born in. */
long set_clocks(const struct plan_clocks *clocks);

/* Makes the root in the namespaces of its own; returns as fork(2) does. */
long clone_into_namespaces(const struct plan_header *h, const struct plan_namespaces *ns, struct plan_shared *shared);

/* Goes on as the root in its own namespaces. The caller's process stays behind as the stand-in and does not return. */
void enter_namespaces(const struct plan_header *h);

/* pread(2) until all is there; negative when it cannot be. */
long read_fully(uint64_t fd, uint64_t address, uint64_t length, uint64_t offset);

/* Checks every hash of an open dump file (`name` is for the message), page contents only when asked. `header_hash` is
 * what its header must hash to, or 0. Returns where its table of children stands in memory. Ends the program with a
 * message that says where the damage is. */
/* Where failures are told before the tree has its service descriptors; -1: standard error. */
extern int report_fd;

/* The blob's ends, from link.ld. */
extern char blob_start[], blob_end[];

const void *verify_file(int fd, const char *name, uint64_t header_hash, int with_pages);

#pragma GCC visibility pop

#endif
