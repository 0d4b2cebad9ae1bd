/* The root's own namespaces: makes them all in one clone3(2), so that each is owned by the right user namespace. What is
 * in them the program fills in afterwards. */
#include "restorer.h"
#include "text.h"

#define NS 1000000000ll

long write_proc(long pid, const char *name, uint64_t text, uint64_t length) {
    struct text path = {.length = 0};
    text_put(&path, "/proc/");
    if (pid) text_number(&path, (uint64_t)pid, 10);
    else text_put(&path, "self");
    text_put(&path, name);
    path.bytes[path.length] = 0;
    long fd = sc(__NR_open, (uint64_t)path.bytes, 1 /* O_WRONLY */, 0, 0, 0);
    if (fd < 0) return fd;
    long n = sc(__NR_write, (uint64_t)fd, text, length, 0, 0);
    sc(__NR_close, (uint64_t)fd, 0, 0, 0, 0);
    return n;
}

static long write_maps(const struct plan_namespaces *ns, long pid) {
    if (ns->deny_setgroups) {
        long r = write_proc(pid, "/setgroups", (uint64_t) "deny", 4);
        if (r < 0) return r;
    }
    long r = ns->uid_map_length ? write_proc(pid, "/uid_map", (uint64_t)ns + ns->uid_map, ns->uid_map_length) : 0;
    if (r < 0) return r;
    return ns->gid_map_length ? write_proc(pid, "/gid_map", (uint64_t)ns + ns->gid_map, ns->gid_map_length) : 0;
}

static int64_t now(uint64_t clock) {
    int64_t t[2] = {0, 0};
    sc(__NR_clock_gettime, clock, (uint64_t)t, 0, 0, 0);
    return t[0] * NS + t[1];
}

/* On the host where it was captured the offset is still right. Another one has other clocks: there they go on from what
 * they showed, with the time that has passed since. Either way none steps back. */
static int64_t offset_now(const struct plan_clocks *clocks, int which) {
    int64_t passed = now(CLOCK_REALTIME) - clocks->realtime;
    int64_t wanted = clocks->shown[which] + (passed > 0 ? passed : 0) - now(which ? CLOCK_BOOTTIME : CLOCK_MONOTONIC);
    int64_t apart = wanted - clocks->offsets[which];
    return apart > -NS && apart < NS ? clocks->offsets[which] : wanted;
}

/* The clocks of a time namespace are set by who will have children in it, before the first is born. */
long set_clocks(const struct plan_clocks *clocks) {
    struct text t = {.length = 0};
    for (int which = 0; which < 2; which++) {
        int64_t offset = offset_now(clocks, which);
        int64_t rest = (offset % NS + NS) % NS;
        text_put(&t, which ? "boottime " : "monotonic ");
        text_signed(&t, (offset - rest) / NS);
        text_put(&t, " ");
        text_number(&t, (uint64_t)rest, 10);
        text_put(&t, "\n");
    }
    return write_proc(0, "/timens_offsets", (uint64_t)t.bytes, (uint64_t)t.length);
}

static long make_time_namespace(const struct plan_namespaces *ns) {
    long r = sc(__NR_unshare, CLONE_NEWTIME, 0, 0, 0, 0);
    if (r < 0 || ns->clocks_length == 0) return r;
    return set_clocks((const struct plan_clocks *)((uint64_t)ns + ns->clocks));
}

static long clone_root(const struct plan_header *h, const struct plan_namespaces *ns) {
    uint64_t flags = ns->flags & ~(uint64_t)CLONE_NEWTIME;
    if (!(flags & CLONE_NEWPID)) return clone_process(h->pid, flags, SIGCHLD);
    uint32_t pids[2] = {h->pid, ns->outer_pid};
    long r = clone_numbered(pids, ns->outer_pid ? 2 : 1, flags, SIGCHLD);
    return r == -E_EXIST ? clone_numbered(pids, 1, flags, SIGCHLD) : r;
}

/* The child returns 0 once its user namespace has its maps. */
long clone_into_namespaces(const struct plan_header *h, const struct plan_namespaces *ns, struct plan_shared *shared) {
    if (ns->flags & CLONE_NEWTIME) {
        long r = make_time_namespace(ns);
        if (r < 0) return r;
    }
    long child = clone_root(h, ns);
    if (child < 0 || !(ns->flags & CLONE_NEWUSER)) return child;
    if (child > 0) {
        long r = write_maps(ns, child);
        if (r < 0) sc(__NR_kill, (uint64_t)child, 9, 0, 0, 0);
        __atomic_store_n(&shared->mapped, 1, __ATOMIC_SEQ_CST);
        sc(__NR_futex, (uint64_t)&shared->mapped, 1 /* FUTEX_WAKE */, 1, 0, 0);
        return r < 0 ? r : child;
    }
    while (!__atomic_load_n(&shared->mapped, __ATOMIC_SEQ_CST)) sc(__NR_futex, (uint64_t)&shared->mapped, 0, 0, 0, 0);
    return 0;
}
