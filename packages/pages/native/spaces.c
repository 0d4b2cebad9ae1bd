#define _GNU_SOURCE
#include "spaces.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FEATURES                                                                                                       \
    (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)
#define WANTED_TOGETHER 16u
#define NO_MEMORY_PAUSE_US 10000
/* Of the user address space: at most a stack is there (arch/x86: STACK_TOP_MAX). */
#define LAST_PAGE 0x7fffffffe000ull

uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint64_t page_of(uint64_t address) { return address & ~(PAGE_BYTES - 1); }

struct source *source_of(struct state *s, uint32_t pid) {
    for (struct source *source = s->sources; source != NULL; source = source->next)
        if (source->pid == pid) return source;
    return NULL;
}

uint64_t pages_left(const struct state *s) {
    uint64_t pages = 0;
    for (const struct source *source = s->sources; source != NULL; source = source->next) pages += source->left.pages;
    return pages;
}

/* ---- spaces ------------------------------------------------------------------------------------------------------- */

static struct space *new_space(struct state *s, int fd, struct source *source) {
    struct space *space = must_calloc(1, sizeof *space);
    space->fd = fd;
    space->source = source;
    struct space **last = &s->spaces;
    while (*last != NULL) last = &(*last)->next;
    *last = space;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = space};
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) != 0) abort();
    s->figures.spaces++;
    return space;
}

static int handshake(int fd, const struct page_range *ranges, size_t count, const char **failed) {
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
    *failed = "UFFDIO_API";
    if (ioctl(fd, UFFDIO_API, &api) != 0) return errno;
    for (size_t i = 0; i < count; i++) {
        struct uffdio_register r = {.range = {.start = ranges[i].start, .len = ranges[i].end - ranges[i].start},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
        *failed = "UFFDIO_REGISTER";
        if (ioctl(fd, UFFDIO_REGISTER, &r) != 0) return errno;
        if ((r.ioctls & (1ull << _UFFDIO_COPY)) == 0 || (r.ioctls & (1ull << _UFFDIO_ZEROPAGE)) == 0) return EOPNOTSUPP;
    }
    return 0;
}

int space_add(struct state *s, pid_t host_pid, int remote, uint32_t pid, const struct page_range *ranges,
              size_t range_count, const struct page_range *owed, size_t owed_count, const char **failed) {
    int pidfd = (int)syscall(SYS_pidfd_open, host_pid, 0);
    *failed = "pidfd_open";
    if (pidfd < 0) return errno;
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, remote, 0);
    int error = fd < 0 ? errno : 0;
    close(pidfd);
    *failed = "pidfd_getfd";
    if (error != 0) return error;
    error = handshake(fd, ranges, range_count, failed);
    if (error != 0) {
        close(fd);
        return error;
    }
    struct source *source = must_calloc(1, sizeof *source);
    source->pid = pid;
    source->next = s->sources;
    s->sources = source;
    source->runs = must_calloc(owed_count + 1, sizeof *source->runs);
    memcpy(source->runs, owed, owed_count * sizeof *owed);
    source->run_count = owed_count;
    source->at = owed_count > 0 ? owed[0].start : 0;
    struct space *space = new_space(s, fd, source);
    for (size_t i = 0; i < owed_count; i++) {
        for (uint64_t at = owed[i].start; at < owed[i].end; at += PAGE_BYTES) {
            page_set_add(&space->owed, at);
            page_set_add(&source->left, at);
        }
    }
    return 0;
}

static void space_free(struct state *s, struct space *space) {
    close(space->fd);
    page_set_free(&space->owed);
    page_map_free(&space->to);
    page_map_free(&space->from);
    free(space->faults);
    free(space);
    s->figures.spaces--;
}

void sweep(struct state *s) {
    for (struct space **at = &s->spaces; *at != NULL;) {
        struct space *space = *at;
        /* Nothing there is ever registered: only whether the address space is alive makes a difference. */
        struct uffdio_zeropage probe = {.range = {.start = LAST_PAGE, .len = PAGE_BYTES}};
        if (!space->gone && ioctl(space->fd, UFFDIO_ZEROPAGE, &probe) != 0 && errno == ESRCH) space->gone = true;
        if (space->gone) {
            *at = space->next;
            space_free(s, space);
        } else {
            at = &space->next;
        }
    }
}

void spaces_end(struct state *s) {
    for (struct space *next, *space = s->spaces; space != NULL; space = next) {
        next = space->next;
        space_free(s, space);
    }
    s->spaces = NULL;
}

/* Where the page at `address` of a space came from; false when it is not owed. */
static bool owed_at(const struct space *space, uint64_t address, uint64_t *origin) {
    uint64_t elsewhere;
    if (!page_map_get(&space->from, address, origin)) {
        *origin = address;
        if (page_map_get(&space->to, address, &elsewhere)) return false;
    }
    return page_set_has(&space->owed, *origin);
}

static uint64_t place_now(const struct space *space, uint64_t origin) {
    uint64_t address = origin;
    page_map_get(&space->to, origin, &address);
    return address;
}

static void forget_move(struct space *space, uint64_t origin) {
    uint64_t address;
    if (!page_map_get(&space->to, origin, &address)) return;
    page_map_remove(&space->to, origin);
    page_map_remove(&space->from, address);
}

static void settle(struct space *space, uint64_t origin) {
    page_set_remove(&space->owed, origin);
    forget_move(space, origin);
}

/* ---- events ------------------------------------------------------------------------------------------------------- */

struct collected {
    const struct space *space;
    uint64_t *origins;
    size_t count, room;
};

static void collect(void *context, uint64_t origin) {
    struct collected *c = context;
    uint64_t elsewhere;
    if (c->space != NULL && page_map_get(&c->space->to, origin, &elsewhere)) return;
    if (c->count == c->room) {
        c->room = c->room == 0 ? 256 : c->room * 2;
        c->origins = realloc(c->origins, c->room * sizeof *c->origins);
        if (c->origins == NULL) abort();
    }
    c->origins[c->count++] = origin;
}

/* The owed pages that a space has in a range now, by their address at the source. */
static struct collected owed_within(struct space *space, uint64_t start, uint64_t end) {
    struct collected c = {.space = space};
    page_set_within(&space->owed, start, end, collect, &c);
    c.space = NULL;
    for (size_t i = 0; i < space->from.capacity; i++) {
        const struct page_entry *entry = &space->from.table[i];
        if (entry->from == 0 || entry->from == UINT64_MAX) continue;
        if (entry->from - 1 >= start && entry->from - 1 < end) collect(&c, entry->to);
    }
    return c;
}

/* Threads that wait in a range look again at what is there now. */
static void wake(struct space *space, uint64_t start, uint64_t end) {
    struct uffdio_range range = {.start = start, .len = end - start};
    ioctl(space->fd, UFFDIO_WAKE, &range);
    for (size_t i = 0; i < space->fault_count; i++)
        if (space->faults[i].address >= start && space->faults[i].address < end) space->faults[i].settled = true;
}

static void drop(struct space *space, uint64_t start, uint64_t end) {
    struct collected c = owed_within(space, start, end);
    for (size_t i = 0; i < c.count; i++) settle(space, c.origins[i]);
    free(c.origins);
    wake(space, start, end);
}

static void move(struct space *space, uint64_t start, uint64_t to, uint64_t length) {
    struct collected c = owed_within(space, start, start + length);
    uint64_t *places = must_calloc(c.count + 1, sizeof *places);
    for (size_t i = 0; i < c.count; i++) {
        places[i] = place_now(space, c.origins[i]) - start + to;
        forget_move(space, c.origins[i]);
    }
    for (size_t i = 0; i < c.count; i++) {
        if (places[i] == c.origins[i]) continue;
        page_map_put(&space->to, c.origins[i], places[i]);
        page_map_put(&space->from, places[i], c.origins[i]);
    }
    free(places);
    free(c.origins);
    wake(space, start, start + length);
}

static void forked(struct state *s, const struct space *parent, int fd) {
    struct space *child = new_space(s, fd, parent->source);
    page_set_copy(&child->owed, &parent->owed);
    page_map_copy(&child->to, &parent->to);
    page_map_copy(&child->from, &parent->from);
}

static void note_fault(struct space *space, uint64_t address) {
    if (space->fault_count == space->fault_room) {
        space->fault_room = space->fault_room == 0 ? 16 : space->fault_room * 2;
        space->faults = realloc(space->faults, space->fault_room * sizeof *space->faults);
        if (space->faults == NULL) abort();
    }
    space->faults[space->fault_count++] = (struct fault){.address = page_of(address), .since_us = now_us()};
}

/* Reads all that a userfaultfd has to tell. Events take effect at once; faults are noted. */
static void take_events(struct state *s, struct space *space) {
    struct uffd_msg messages[16];
    for (;;) {
        ssize_t n = read(space->fd, messages, sizeof messages);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        for (size_t i = 0; i < (size_t)n / sizeof messages[0]; i++) {
            const struct uffd_msg *m = &messages[i];
            switch (m->event) {
            case UFFD_EVENT_PAGEFAULT: note_fault(space, m->arg.pagefault.address); break;
            case UFFD_EVENT_FORK: forked(s, space, (int)m->arg.fork.ufd); break;
            case UFFD_EVENT_REMAP: move(space, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len); break;
            case UFFD_EVENT_REMOVE:
            case UFFD_EVENT_UNMAP: drop(space, m->arg.remove.start, m->arg.remove.end); break;
            default: break;
            }
        }
    }
}

/* ---- pages -------------------------------------------------------------------------------------------------------- */

/* What came of filling pages. A mapping that is being changed lets nobody fill it until its event was read. */
enum filled { FILLED, CHANGING, NOTHING_THERE, SPACE_GONE };

static enum filled outcome(int error, int64_t done) {
    if (error == 0 || done > 0) return FILLED;
    switch (error) {
    case EAGAIN: return CHANGING;
    case ESRCH: return SPACE_GONE;
    case ENOMEM: usleep(NO_MEMORY_PAUSE_US); return CHANGING;
    default: return NOTHING_THERE; /* EEXIST: it has a page; ENOENT, EINVAL: it is not mapped so any more */
    }
}

static void note_served(struct state *s, struct space *space, uint64_t address) {
    for (size_t i = 0; i < space->fault_count; i++) {
        struct fault *fault = &space->faults[i];
        if (fault->address != address || fault->settled) continue;
        uint64_t waited = now_us() - fault->since_us;
        if (waited > s->figures.longest_us) s->figures.longest_us = waited;
        fault->settled = true;
    }
}

static void forget_settled(struct space *space) {
    size_t kept = 0;
    for (size_t i = 0; i < space->fault_count; i++)
        if (!space->faults[i].settled) space->faults[kept++] = space->faults[i];
    space->fault_count = kept;
}

static enum filled fill_zero(struct space *space, uint64_t address) {
    struct uffdio_zeropage z = {.range = {.start = address, .len = PAGE_BYTES}};
    enum filled how = outcome(ioctl(space->fd, UFFDIO_ZEROPAGE, &z) == 0 ? 0 : errno, z.zeropage);
    struct uffdio_range range = {.start = address, .len = PAGE_BYTES};
    if (how == NOTHING_THERE) ioctl(space->fd, UFFDIO_WAKE, &range);
    return how;
}

/* Asks for a page that somebody waits for, and for its neighbours that nobody has asked for. */
static void want(struct state *s, struct source *source, uint64_t origin) {
    if (page_set_has(&source->urgent, origin)) return;
    uint32_t pages = 1;
    uint64_t end = (origin / PAGE_BYTES / WANTED_TOGETHER + 1) * WANTED_TOGETHER * PAGE_BYTES;
    if (!page_set_has(&source->asked, origin)) {
        for (uint64_t at = origin + PAGE_BYTES; at < end; at += PAGE_BYTES, pages++)
            if (!page_set_has(&source->left, at) || page_set_has(&source->asked, at)) break;
    }
    for (uint32_t i = 0; i < pages; i++) {
        page_set_add(&source->urgent, origin + i * PAGE_BYTES);
        page_set_add(&source->asked, origin + i * PAGE_BYTES);
    }
    s->want(source->pid, origin, pages);
}

static void handle_faults(struct state *s, struct space *space) {
    for (size_t i = 0; i < space->fault_count && !space->gone; i++) {
        uint64_t origin, address = space->faults[i].address;
        if (space->faults[i].settled || space->faults[i].asked) continue;
        if (owed_at(space, address, &origin)) {
            space->faults[i].asked = true;
            s->figures.faults++;
            want(s, space->source, origin);
            continue;
        }
        switch (fill_zero(space, address)) {
        case CHANGING: /* it may be owed now */
            take_events(s, space);
            sched_yield();
            i--;
            break;
        case SPACE_GONE: space->gone = true; break;
        default: space->faults[i].settled = true;
        }
    }
    forget_settled(space);
}

void space_serve(struct state *s, struct space *space) {
    take_events(s, space);
    handle_faults(s, space);
}

/* Puts one run of pages, which are together in the space as well, into it. */
static void put(struct state *s, struct space *space, uint64_t origin, uint64_t pages, const uint8_t *content) {
    for (uint64_t done = 0; done < pages && !space->gone;) {
        uint64_t at = origin + done * PAGE_BYTES;
        if (!page_set_has(&space->owed, at)) { /* an event has taken it meanwhile */
            done++;
            continue;
        }
        uint64_t to = place_now(space, at), together = 1;
        while (done + together < pages && page_set_has(&space->owed, at + together * PAGE_BYTES) &&
               place_now(space, at + together * PAGE_BYTES) == to + together * PAGE_BYTES)
            together++;
        struct uffdio_copy copy = {.dst = to, .src = (uintptr_t)content + done * PAGE_BYTES, .len = together * PAGE_BYTES};
        int error = ioctl(space->fd, UFFDIO_COPY, &copy) == 0 ? 0 : errno;
        uint64_t filled = copy.copy > 0 ? (uint64_t)copy.copy / PAGE_BYTES : 0;
        switch (outcome(error, copy.copy)) {
        case CHANGING:
            take_events(s, space);
            sched_yield();
            continue;
        case SPACE_GONE: space->gone = true; continue;
        case NOTHING_THERE: {
            struct uffdio_range range = {.start = to, .len = PAGE_BYTES};
            ioctl(space->fd, UFFDIO_WAKE, &range);
            filled = 1;
            break;
        }
        case FILLED: break;
        }
        for (uint64_t i = 0; i < filled; i++) {
            settle(space, at + i * PAGE_BYTES);
            if (space->fault_count > 0) note_served(s, space, to + i * PAGE_BYTES);
        }
        done += filled;
    }
    handle_faults(s, space);
}

void source_came(struct state *s, struct source *source, uint64_t address, uint32_t pages, const uint8_t *content) {
    /* A child that is forked meanwhile joins the end of the list. */
    for (struct space *space = s->spaces; space != NULL; space = space->next)
        if (space->source == source && !space->gone) put(s, space, address, pages, content);
    for (uint32_t i = 0; i < pages; i++) {
        uint64_t at = address + i * PAGE_BYTES;
        if (!page_set_has(&source->left, at)) continue;
        page_set_remove(&source->left, at);
        if (page_set_has(&source->urgent, at)) s->figures.pages_wanted++;
        else s->figures.pages_pushed++;
    }
}

static bool is_needed(const struct state *s, const struct source *source, uint64_t origin) {
    for (const struct space *space = s->spaces; space != NULL; space = space->next)
        if (space->source == source && !space->gone && page_set_has(&space->owed, origin)) return true;
    return false;
}

static bool next_of(struct state *s, struct source *source, uint32_t most, uint64_t *address, uint32_t *pages) {
    uint32_t found = 0;
    for (; source->run < source->run_count; source->at += PAGE_BYTES) {
        if (source->at >= source->runs[source->run].end) {
            if (found > 0) return true;
            source->run++;
            source->at = source->runs[source->run].start - PAGE_BYTES;
            continue;
        }
        bool wanted = page_set_has(&source->left, source->at) && !page_set_has(&source->asked, source->at);
        if (wanted && !is_needed(s, source, source->at)) {
            page_set_remove(&source->left, source->at);
            s->figures.pages_dropped++;
            wanted = false;
        }
        if (found > 0 && (!wanted || found == most)) return true;
        if (!wanted) continue;
        if (found == 0) *address = source->at;
        page_set_add(&source->asked, source->at);
        *pages = ++found;
    }
    return found > 0;
}

bool next_range(struct state *s, uint32_t most, uint32_t *pid, uint64_t *address, uint32_t *pages) {
    for (struct source *source = s->sources; source != NULL; source = source->next) {
        *pid = source->pid;
        if (source->left.pages > 0 && next_of(s, source, most, address, pages)) return true;
    }
    return false;
}

void ask_again(struct state *s) {
    for (struct source *source = s->sources; source != NULL; source = source->next) {
        page_set_free(&source->asked);
        page_set_free(&source->urgent);
        source->run = 0;
        source->at = source->run_count > 0 ? source->runs[0].start : 0;
    }
    for (struct space *space = s->spaces; space != NULL; space = space->next) {
        for (size_t i = 0; i < space->fault_count; i++) {
            uint64_t origin;
            if (owed_at(space, space->faults[i].address, &origin)) want(s, space->source, origin);
        }
    }
}
