// Programs that are stopped in the middle of what they do all the time; argv[2] names it. Each goes
// on afterwards for some rounds, and checks every one.
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/timerfd.h>
#include <stdatomic.h>
#include <termios.h>

#include "support/socket.h"

/// Whether "check now" has come.
static bool is_released(void) {
    sigset_t set;
    sigpending(&set);
    return sigismember(&set, SIGUSR1) == 1;
}

enum { AFTERWARDS = 50 };

/// Rounds of work until "check now", and some after it.
static void go_on(void (*round)(void)) {
    for (int i = 0; i < 5; i++) {
        round();
    }
    object_ready();
    while (!is_released()) {
        round();
    }
    object_wait();
    SABOTAGE(object_fail("broken on purpose"));
    for (int i = 0; i < AFTERWARDS; i++) {
        round();
    }
}

static void *end_at_once(void *argument) {
    return argument;
}

static void threads(void) {
    pthread_t made[4];
    for (uintptr_t i = 0; i < COUNT_OF(made); i++) {
        MUST_BE_ZERO(pthread_create(&made[i], NULL, end_at_once, (void *)i));
    }
    for (uintptr_t i = 0; i < COUNT_OF(made); i++) {
        void *value;
        MUST_BE_ZERO(pthread_join(made[i], &value));
        CHECK_EQUAL((uintptr_t)value, i, "value of a thread");
    }
}

enum { CHAINS = 10 };
static atomic_uint links[CHAINS];
static pthread_attr_t small;

/// Each thread of a chain makes the next one, and ends.
static void *link_on(void *argument) {
    uintptr_t chain = (uintptr_t)argument;
    pthread_t next;
    links[chain]++;
    usleep(2000);
    int error;
    while ((error = pthread_create(&next, &small, link_on, argument)) == EAGAIN) usleep(100);
    MUST_BE_ZERO(error);
    return NULL;
}

/// A thread that was overlooked is the end of its chain.
static void thread_chains(void) {
    unsigned before[CHAINS];
    if (links[0] == 0) {
        MUST_BE_ZERO(pthread_attr_init(&small));
        MUST_BE_ZERO(pthread_attr_setstacksize(&small, 1 << 16));
        MUST_BE_ZERO(pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED));
        for (uintptr_t i = 0; i < CHAINS; i++) link_on((void *)i);
    }
    for (int i = 0; i < CHAINS; i++) before[i] = links[i];
    for (int i = 0; i < CHAINS; i++) {
        for (int ms = 0; links[i] == before[i]; ms++) {
            CHECK(ms < 10000, "chain %d has ended after %u threads", i, before[i]);
            usleep(1000);
        }
    }
}

static void forks(void) {
    pid_t child = MUST(fork());
    if (child == 0) {
        _exit(17);
    }
    int status;
    pid_t got;
    do {
        got = waitpid(child, &status, 0);
    } while (got == -1 && errno == EINTR);
    CHECK_EQUAL(got, child, "child");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 17, "its status is 0x%x", status);
}

static void execs(void) {
    pid_t child = MUST(vfork());
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(0); // a container without it
    }
    object_reap(child);
}

static void exchange(int one, int other) {
    char text[300], got[300];
    object_fill(text, sizeof text, 1);
    CHECK(write(one, text, sizeof text) == sizeof text, "write: %s", strerror(errno));
    for (size_t length = 0; length < sizeof got;) {
        ssize_t more = read(other, got + length, sizeof got - length);
        CHECK(more > 0, "read: %zd %s", more, strerror(errno));
        length += (size_t)more;
    }
    CHECK_FILLED(got, sizeof got, 1, "what came");
}

static void unix_sockets(void) {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    exchange(pair[0], pair[1]);
    close(pair[0]);
    close(pair[1]);
}

static void tcp_sockets(void) {
    union address address;
    int listener = bound_socket(AF_INET, SOCK_STREAM, &address);
    MUST(listen(listener, 1));
    int one = connected_socket(&address, SOCK_STREAM), other = MUST(accept(listener, NULL, NULL));
    exchange(one, other);
    struct linger now = {1, 0};
    MUST(setsockopt(one, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(one);
    close(other);
    close(listener);
}

static void pipes(void) {
    int ends[2];
    MUST(pipe(ends));
    exchange(ends[1], ends[0]);
    close(ends[0]);
    close(ends[1]);
}

static void terminals(void) {
    char name[64], text[16];
    int master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(unlockpt(master));
    MUST_BE_ZERO(ptsname_r(master, name, sizeof name));
    int slave = MUST(open(name, O_RDWR | O_NOCTTY));
    CHECK(write(master, "line\n", 5) == 5, "write: %s", strerror(errno));
    CHECK_EQUAL(read(slave, text, sizeof text), 5, "length");
    close(slave);
    close(master);
}

static void mappings(void) {
    char *memory = object_map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    object_fill(memory, 8 * PAGE, 5);
    MUST(mprotect(memory + 2 * PAGE, PAGE, PROT_NONE));
    MUST(munmap(memory + 2 * PAGE, 6 * PAGE));
    memory = mremap(memory, 2 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
    CHECK(memory != MAP_FAILED, "mremap: %s", strerror(errno));
    CHECK_FILLED(memory, 2 * PAGE, 5, "moved memory");
    CHECK_ZERO(memory + 2 * PAGE, 14 * PAGE, "new memory");
    MUST(munmap(memory, 16 * PAGE));
}

static void netlink(void) {
    int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct {
        struct nlmsghdr header;
        struct rtgenmsg general;
    } request = {{.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK,
                  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}, {.rtgen_family = AF_UNSPEC}};
    char answer[32768];
    CHECK(send(fd, &request, sizeof request, 0) == sizeof request, "send: %s", strerror(errno));
    ssize_t length;
    do {
        length = recv(fd, answer, sizeof answer, 0);
        CHECK(length > 0, "recv: %s", strerror(errno));
    } while (((struct nlmsghdr *)answer)->nlmsg_type != NLMSG_DONE && length > 0 &&
             ((struct nlmsghdr *)answer)->nlmsg_type != NLMSG_ERROR);
    close(fd);
}

static void requests(void) {
    static aio_context_t context;
    static int fd = -1;
    static char content[PAGE];
    if (fd < 0) {
        fd = object_file("data", O_RDWR, PAGE, 3);
        MUST(syscall(SYS_io_setup, 8, &context));
    }
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd,
                           .aio_buf = (uintptr_t)content, .aio_nbytes = PAGE}, *all = &request;
    struct io_event event;
    CHECK_EQUAL(syscall(SYS_io_submit, context, 1, &all), 1, "io_submit");
    long got;
    do {
        got = syscall(SYS_io_getevents, context, 1, 1, &event, NULL);
    } while (got < 0 && errno == EINTR);
    CHECK(got == 1 && event.res == PAGE, "%ld events, result %lld", got, (long long)event.res);
    CHECK_FILLED(content, PAGE, 3, "content");
}

/// A context for each request: some of them are given up in another order than they were made.
static void requests_anew(void) {
    static aio_context_t kept, contexts[3];
    if (kept == 0) {
        MUST(syscall(SYS_io_setup, 2, &kept));
    }
    memset(contexts, 0, sizeof contexts);
    int fd = object_file("anew", O_RDONLY, PAGE, 5);
    char content[PAGE];
    for (int i = 0; i < 4; i++) {
        if (i < 3) {
            MUST(syscall(SYS_io_setup, 4, &contexts[i]));
        }
        struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd,
                               .aio_buf = (uintptr_t)content, .aio_nbytes = PAGE}, *all = &request;
        struct io_event event = {0};
        aio_context_t context = i < 3 ? contexts[i] : kept;
        CHECK_EQUAL(syscall(SYS_io_submit, context, 1, &all), 1, "io_submit");
        long got;
        do {
            got = syscall(SYS_io_getevents, context, 1, 1, &event, NULL);
        } while (got < 0 && errno == EINTR);
        CHECK(got == 1 && event.obj == (uintptr_t)&request && event.res == PAGE, "%ld events, result %lld", got,
              (long long)event.res);
        CHECK_FILLED(content, PAGE, 5, "content");
        memset(content, 0, PAGE);
    }
    close(fd);
    MUST(syscall(SYS_io_destroy, contexts[1]));
    MUST(syscall(SYS_io_destroy, contexts[0]));
    MUST(syscall(SYS_io_destroy, contexts[2]));
}

static void epolls(void) {
    int set = MUST(epoll_create1(0)), counter = MUST(eventfd(0, 0)), timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = counter}, got;
    struct itimerspec soon = {.it_value.tv_nsec = 1};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, counter, &event));
    event.data.fd = timer;
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, timer, &event));
    MUST(eventfd_write(counter, 1));
    MUST(timerfd_settime(timer, 0, &soon, NULL));
    int count;
    do {
        count = epoll_wait(set, &got, 1, 1000);
    } while (count < 0 && errno == EINTR);
    CHECK_EQUAL(count, 1, "events");
    close(set);
    close(counter);
    close(timer);
}

static void watches(void) {
    char path[PATH_MAX], events[1024];
    int fd = MUST(inotify_init());
    MUST(inotify_add_watch(fd, object_directory, IN_CREATE | IN_DELETE));
    close(MUST(open(object_path(path, "watched"), O_CREAT | O_WRONLY, 0600)));
    MUST(unlink(path));
    CHECK(read(fd, events, sizeof events) >= (ssize_t)sizeof(struct inotify_event), "read: %s", strerror(errno));
    close(fd);
}

static void files(void) {
    char path[PATH_MAX], other[PATH_MAX], content[PAGE];
    int fd = MUST(open(object_path(path, "file"), O_CREAT | O_RDWR | O_TRUNC, 0600));
    object_fill(content, PAGE, 4);
    CHECK(write(fd, content, PAGE) == PAGE, "write: %s", strerror(errno));
    MUST(rename(path, object_path(other, "renamed")));
    MUST(unlink(other));
    memset(content, 0, PAGE);
    CHECK_EQUAL(pread(fd, content, PAGE, 0), PAGE, "length");
    CHECK_FILLED(content, PAGE, 4, "content");
    close(fd);
}

static volatile sig_atomic_t signals_seen;

static void count_signal(int number) {
    (void)number;
    signals_seen++;
}

static void signals(void) {
    signal(SIGUSR2, count_signal);
    int before = signals_seen;
    MUST(kill(getpid(), SIGUSR2));
    CHECK_EQUAL(signals_seen, before + 1, "signals");
}

static void segments(void) {
    int id = MUST(shmget(IPC_PRIVATE, 3 * PAGE, IPC_CREAT | 0600));
    char *memory = shmat(id, NULL, 0);
    CHECK(memory != (void *)-1, "shmat: %s", strerror(errno));
    MUST(shmctl(id, IPC_RMID, NULL));
    object_fill(memory, 3 * PAGE, 9);
    CHECK_FILLED(memory, 3 * PAGE, 9, "segment");
    MUST(shmdt(memory));
}

/// Two processes that take turns; the second only in the child.
static void take_turns(void (*child_body)(void *), void (*round)(void)) {
    pid_t child = object_fork(child_body, NULL);
    go_on(round);
    MUST(kill(child, SIGKILL));
    waitpid(child, NULL, 0);
}

static int there[2], back[2];

static void echo_pipe(void *argument) {
    (void)argument;
    object_child_ready();
    char byte;
    for (;;) {
        while (read(there[0], &byte, 1) != 1) {
        }
        byte++;
        while (write(back[1], &byte, 1) != 1) {
        }
    }
}

static void ask_pipe(void) {
    char byte = 'a';
    CHECK(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1 && byte == 'b',
          "the answer is %d: %s", byte, strerror(errno));
}

static uint32_t *shared_word;

static void wait_while(uint32_t value) {
    while (__atomic_load_n(shared_word, __ATOMIC_SEQ_CST) == value) {
        syscall(SYS_futex, shared_word, FUTEX_WAIT, value, NULL, NULL, 0);
    }
}

static void set_word(uint32_t value) {
    __atomic_store_n(shared_word, value, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, shared_word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void echo_futex(void *argument) {
    (void)argument;
    object_child_ready();
    for (;;) {
        wait_while(0);
        set_word(0);
    }
}

static void ask_futex(void) {
    set_word(1);
    wait_while(1);
}

static int queue_id, semaphore_id;
struct message {
    long type;
    char text[16];
};

/// A queue and semaphores of one's own; msgrcv and semop end with EINTR when their thread is stopped.
static void echo_queue(void *argument) {
    (void)argument;
    object_child_ready();
    for (;;) {
        struct message message;
        if (msgrcv(queue_id, &message, sizeof message.text, 1, 0) > 0) {
            message.type = 2;
            while (msgsnd(queue_id, &message, sizeof message.text, 0) < 0 && errno == EINTR) {
            }
        }
    }
}

static void ask_queue(void) {
    struct message message = {.type = 1, .text = "question"};
    ssize_t length;
    MUST(msgsnd(queue_id, &message, sizeof message.text, 0));
    do {
        length = msgrcv(queue_id, &message, sizeof message.text, 2, 0);
    } while (length < 0 && errno == EINTR);
    CHECK(length > 0 && strcmp(message.text, "question") == 0, "msgrcv: %s", strerror(errno));
}

static void change(unsigned short which, short by) {
    struct sembuf operation = {.sem_num = which, .sem_op = by};
    while (semop(semaphore_id, &operation, 1) < 0) {
        CHECK(errno == EINTR, "semop: %s", strerror(errno));
    }
}

static void echo_semaphore(void *argument) {
    (void)argument;
    object_child_ready();
    for (;;) {
        change(0, -1);
        change(1, 1);
    }
}

static void ask_semaphore(void) {
    change(0, 1);
    change(1, -1);
}

static const struct {
    const char *name;
    void (*round)(void);
    void (*child)(void *);
} kinds[] = {
    {"threads", threads, NULL},       {"forks", forks, NULL},         {"execs", execs, NULL},
    {"thread-chains", thread_chains, NULL},
    {"unix", unix_sockets, NULL},     {"tcp", tcp_sockets, NULL},     {"pipes", pipes, NULL},
    {"terminals", terminals, NULL},   {"mappings", mappings, NULL},   {"netlink", netlink, NULL},
    {"aio", requests, NULL},          {"aio-anew", requests_anew, NULL}, {"epoll", epolls, NULL},        {"inotify", watches, NULL},
    {"files", files, NULL},           {"signals", signals, NULL},     {"segments", segments, NULL},
    {"pipe-echo", ask_pipe, echo_pipe}, {"futex-echo", ask_futex, echo_futex},
    {"queue-echo", ask_queue, echo_queue}, {"semaphore-echo", ask_semaphore, echo_semaphore},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "threads";
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(kind, kinds[i].name) != 0) {
            continue;
        }
        if (kinds[i].child == NULL) {
            go_on(kinds[i].round);
            object_pass();
        }
        MUST(pipe(there));
        MUST(pipe(back));
        shared_word = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        queue_id = MUST(msgget(IPC_PRIVATE, 0600));
        semaphore_id = MUST(semget(IPC_PRIVATE, 2, 0600));
        MUST(semctl(semaphore_id, 0, SETVAL, 0));
        MUST(semctl(semaphore_id, 1, SETVAL, 0));
        take_turns(kinds[i].child, kinds[i].round);
        MUST(msgctl(queue_id, IPC_RMID, NULL));
        MUST(semctl(semaphore_id, 0, IPC_RMID));
        object_pass();
    }
    object_fail("no kind %s", kind);
}
