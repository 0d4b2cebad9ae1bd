/* ferry-pager: brings a container that runs already the memory that is still at its source. It holds the userfaultfds of
 * the restored processes, so that threads which touch a missing page wait for it, and fills pages in; where the pages
 * come from, and in which order, its agent decides. It outlives the agent: threads wait until another one connects.
 *
 *   ferry-pager SOCKET CGROUP    listens on the UNIX socket SOCKET, says "ready" on stdout, and closes it
 *
 * Were its userfaultfds closed, the kernel would fill what is missing with zeros. So a second process shares its table
 * of descriptors, and should it end before its time, kills every process of the cgroup folder CGROUP before the
 * descriptors go.
 *
 * Messages are a type and a length (uint32_t each), then so many bytes; see below. Native byte order. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../linux/native/xxh64.h"
#include "spaces.h"

#define CHUNK_BYTES_MAX (1u << 20)
#define MESSAGE_BYTES_MAX (256u << 20)
#define SWEEP_MS 1000

enum from_agent {
    TAKE_SPACE = 1, /* struct space_head, then ranges, then what is owed; answered by READY or FAILED */
    TAKE_PAGES,     /* struct pages_head, then the content */
    ASK_NEXT,       /* uint32_t: how many pages at most; answered by RANGE */
    ASK_FIGURES,    /* answered by FIGURES */
    ASK_AGAIN,      /* what was asked for will not come */
    END,            /* ends it, when nothing is missing any more, or (a byte) whatever is: nothing of it has run */
};
enum to_agent {
    READY = 1,
    FAILED,  /* uint32_t errno, then what failed */
    WANT,    /* struct range_message: threads wait for it */
    RANGE,   /* the same, of ASK_NEXT; no pages: all have been asked for */
    FIGURES, /* struct figures */
    DONE,    /* struct figures: nothing is missing any more */
    DAMAGED, /* struct range_message: what came is not what was sent */
};

struct space_head {
    uint32_t host_pid, pid;
    int32_t descriptor;
    uint32_t range_count, owed_count, zero;
};
struct pages_head {
    uint32_t pid, encoding;
    uint64_t address, hash;
    uint32_t pages, zero;
};
struct range_message {
    uint32_t pid, pages;
    uint64_t address;
};
_Static_assert(sizeof(struct space_head) == 24 && sizeof(struct pages_head) == 32 && sizeof(struct range_message) == 16,
               "pager-messages.ts writes these");
_Static_assert(sizeof(struct figures) == 56, "pager-messages.ts reads these");

struct buffer {
    uint8_t *bytes;
    size_t room, length;
};

static struct state state;
static int listener = -1, agent = -1;
static struct buffer in, out;
static bool done, told_done, over;
static uint8_t scratch[CHUNK_BYTES_MAX];
static int listener_mark, agent_mark;

static void make_room(struct buffer *b, size_t more) {
    if (b->length + more <= b->room) return;
    b->room = (b->length + more) * 2;
    b->bytes = realloc(b->bytes, b->room);
    if (b->bytes == NULL) abort();
}

/* ---- the agent ---------------------------------------------------------------------------------------------------- */

static void agent_gone(void) {
    if (agent >= 0) close(agent);
    agent = -1;
    in.length = out.length = 0;
    told_done = false;
}

static void flush(void) {
    while (agent >= 0 && out.length > 0) {
        ssize_t n = send(agent, out.bytes, out.length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) agent_gone();
        if (n <= 0) break;
        out.length -= (size_t)n;
        memmove(out.bytes, out.bytes + n, out.length);
    }
    if (agent < 0) return;
    struct epoll_event event = {.events = out.length > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = &agent_mark};
    epoll_ctl(state.epoll, EPOLL_CTL_MOD, agent, &event);
}

static void say(uint32_t type, const void *payload, size_t length) {
    if (agent < 0) return;
    uint32_t head[2] = {type, (uint32_t)length};
    make_room(&out, sizeof head + length);
    memcpy(out.bytes + out.length, head, sizeof head);
    if (length > 0) memcpy(out.bytes + out.length + sizeof head, payload, length);
    out.length += sizeof head + length;
}

static void say_range(uint32_t type, uint32_t pid, uint64_t address, uint32_t pages) {
    struct range_message range = {.pid = pid, .pages = pages, .address = address};
    say(type, &range, sizeof range);
}

static void say_want(uint32_t pid, uint64_t address, uint32_t pages) { say_range(WANT, pid, address, pages); }

static void say_figures(uint32_t type) {
    state.figures.pages_left = pages_left(&state);
    say(type, &state.figures, sizeof state.figures);
}

static void take_space(const uint8_t *bytes, size_t length) {
    struct space_head head;
    if (length < sizeof head) return;
    memcpy(&head, bytes, sizeof head);
    size_t count = (size_t)head.range_count + head.owed_count;
    if (length != sizeof head + count * sizeof(struct page_range)) return;
    struct page_range *ranges = must_calloc(count + 1, sizeof *ranges);
    memcpy(ranges, bytes + sizeof head, count * sizeof *ranges);
    struct {
        uint32_t error;
        char text[60];
    } answer = {0};
    const char *failed = "";
    answer.error = (uint32_t)space_add(&state, (pid_t)head.host_pid, head.descriptor, head.pid, ranges,
                                       head.range_count, ranges + head.range_count, head.owed_count, &failed);
    free(ranges);
    if (answer.error == 0) {
        say(READY, NULL, 0);
        return;
    }
    snprintf(answer.text, sizeof answer.text, "%s", failed);
    say(FAILED, &answer, sizeof answer.error + strlen(answer.text));
}

static const uint8_t *unpacked(const struct pages_head *head, const uint8_t *data, size_t length) {
    size_t bytes = (size_t)head->pages * PAGE_BYTES;
    if (head->pages == 0 || bytes > sizeof scratch) return NULL;
    if (head->encoding == 0) {
        if (length != bytes) return NULL;
        memcpy(scratch, data, bytes);
    } else {
        int n = LZ4_decompress_safe((const char *)data, (char *)scratch, (int)length, (int)bytes);
        if (n < 0 || (size_t)n != bytes) return NULL;
    }
    return ferry_xxh64(scratch, bytes, 0) == head->hash ? scratch : NULL;
}

static void take_pages(const uint8_t *bytes, size_t length) {
    struct pages_head head;
    if (length < sizeof head) return;
    memcpy(&head, bytes, sizeof head);
    struct source *source = source_of(&state, head.pid);
    const uint8_t *content = unpacked(&head, bytes + sizeof head, length - sizeof head);
    if (content == NULL || source == NULL) say_range(DAMAGED, head.pid, head.address, head.pages);
    else source_came(&state, source, head.address, head.pages, content);
}

static void answer_next(const uint8_t *bytes, size_t length) {
    uint32_t most = 1, pid = 0, pages = 0;
    uint64_t address = 0;
    if (length >= sizeof most) memcpy(&most, bytes, sizeof most);
    if (!next_range(&state, most, &pid, &address, &pages)) pages = 0;
    say_range(RANGE, pid, address, pages);
}

static void take_message(uint32_t type, const uint8_t *bytes, size_t length) {
    switch (type) {
    case TAKE_SPACE: take_space(bytes, length); break;
    case TAKE_PAGES: take_pages(bytes, length); break;
    case ASK_NEXT: answer_next(bytes, length); break;
    case ASK_FIGURES: say_figures(FIGURES); break;
    case ASK_AGAIN: ask_again(&state); break;
    case END: over = done || state.sources == NULL || length > 0; break;
    default: agent_gone();
    }
}

/* Takes what has come, one message, so that faults are looked after in between; whether there may be another one. */
static bool take_one(void) {
    uint32_t head[2];
    if (agent < 0 || in.length < sizeof head) return false;
    memcpy(head, in.bytes, sizeof head);
    if (head[1] > MESSAGE_BYTES_MAX) {
        agent_gone();
        return false;
    }
    size_t whole = sizeof head + head[1];
    if (in.length < whole) return false;
    take_message(head[0], in.bytes + sizeof head, head[1]);
    if (agent < 0) return false;
    in.length -= whole;
    memmove(in.bytes, in.bytes + whole, in.length);
    return true;
}

static void receive(void) {
    make_room(&in, CHUNK_BYTES_MAX);
    ssize_t n = recv(agent, in.bytes + in.length, CHUNK_BYTES_MAX, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n <= 0) agent_gone();
    else in.length += (size_t)n;
}

static void accept_agent(void) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    agent_gone(); /* a new one takes the place of the one before */
    agent = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &agent_mark};
    if (epoll_ctl(state.epoll, EPOLL_CTL_ADD, agent, &event) != 0) abort();
    ask_again(&state);
}

/* ---- the program -------------------------------------------------------------------------------------------------- */

static bool holds(const struct space *space) {
    for (const struct space *other = state.spaces; other != NULL; other = other->next)
        if (other == space) return true;
    return false;
}

static void settle_end(void) {
    if (state.sources == NULL) return;
    if (!done && (pages_left(&state) == 0 || state.spaces == NULL)) {
        spaces_end(&state);
        done = true;
    }
    if (done && !told_done && agent >= 0) {
        say_figures(DONE);
        told_done = true;
    }
}

static void serve(void) {
    uint64_t swept = now_us();
    while (!over) {
        struct epoll_event events[64];
        bool more = in.length > 0 && take_one();
        settle_end();
        flush();
        int n = epoll_wait(state.epoll, events, 64, more ? 0 : SWEEP_MS);
        bool from_agent = false, knock = false;
        for (int i = 0; i < n; i++) {
            void *who = events[i].data.ptr;
            if (who == &listener_mark) knock = true;
            else if (who == &agent_mark) from_agent = true;
            else if (holds(who)) space_serve(&state, who);
        }
        if (from_agent && agent >= 0 && !more) receive();
        if (knock) accept_agent();
        if (now_us() - swept > SWEEP_MS * 1000u) {
            sweep(&state);
            swept = now_us();
        }
    }
}

static int listen_at(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -1;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0077);
    int failed = fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4) != 0;
    umask(mask);
    return failed ? -1 : fd;
}

/* Kills all that is in the container until nothing is left, so that nothing runs on with zeros for its memory. */
static void kill_all(const char *cgroup) {
    char path[4096];
    snprintf(path, sizeof path, "%s/cgroup.procs", cgroup);
    for (int round = 0; round < 1000; round++) {
        FILE *list = fopen(path, "re");
        if (list == NULL) return;
        long pid, found = 0;
        while (fscanf(list, "%ld", &pid) == 1) {
            if (pid <= 1) continue;
            kill((pid_t)pid, SIGKILL);
            found++;
        }
        fclose(list);
        if (found == 0) return;
        usleep(10000);
    }
}

static int guard(pid_t worker, const char *cgroup) {
    int status = 0;
    prctl(PR_SET_NAME, "ferry-pager-grd");
    while (waitpid(worker, &status, 0) < 0 && errno == EINTR) {}
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    kill_all(cgroup);
    return 1;
}

static void stand_alone(void) {
    static const int ignored[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) signal(ignored[i], SIG_IGN);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max; /* each fork of the container brings a descriptor */
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, "-1000", 5) < 0) {} /* as far as that is allowed */
        close(fd);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: ferry-pager SOCKET CGROUP\n");
        return 2;
    }
    stand_alone();
    state.epoll = epoll_create1(EPOLL_CLOEXEC);
    state.want = say_want;
    listener = listen_at(argv[1]);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener_mark};
    if (listener < 0 || state.epoll < 0 || epoll_ctl(state.epoll, EPOLL_CTL_ADD, listener, &event) != 0) {
        fprintf(stderr, "ferry-pager: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    pid_t worker = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (worker < 0) return 1;
    if (worker > 0) return guard(worker, argv[2]);
    if (write(1, "ready\n", 6) != 6) return 1;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, 1);
    dup2(null, 2);
    close(null);
    serve();
    unlink(argv[1]);
    return 0;
}
