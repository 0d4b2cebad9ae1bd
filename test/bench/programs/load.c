// A program with a load: holds memory, some of which it writes anew all the time at a given rate, has so many threads and
// processes, and sends back what its clients on PORT say. At SIGUSR1 it says whether all memory, of every process, holds
// what was written: "intact" or "damaged".
// Usage: load PORT MIB RATE_MIB_S THREADS PROCESSES MIB_OF_EACH [anonymous|memfd]
// With the last one the memory is shared: with ATTACHED further processes, which have looked at all of it.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)

enum { ATTACHED = 3 };

static uint64_t *memory;
// How often each page was written.
static uint32_t *written;
static uint64_t pages;
static uint64_t rate;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// One half of a page is noise, the other a value that repeats.
static uint64_t word(uint64_t page, uint32_t times, unsigned i) {
    return i < WORDS / 2 ? mix((page << 32 | times) * WORDS + i) : page ^ times;
}

static void write_page(uint64_t page, uint32_t times) {
    for (unsigned i = 0; i < WORDS; i++)
        memory[page * WORDS + i] = word(page, times, i);
}

static int is_intact(void) {
    for (uint64_t page = 0; page < pages; page++)
        for (unsigned i = 0; i < WORDS; i++)
            if (memory[page * WORDS + i] != word(page, written[page], i))
                return 0;
    return 1;
}

static void *map(uint64_t length, const char *shared) {
    int fd = -1;
    if (shared != NULL && strcmp(shared, "memfd") == 0) {
        fd = memfd_create("load", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, (off_t)length) != 0)
            fail("memfd");
    }
    int flags = (shared != NULL ? MAP_SHARED : MAP_PRIVATE) | (fd < 0 ? MAP_ANONYMOUS : 0);
    return mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);
}

static void attach(void) {
    for (int i = 0; i < ATTACHED; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child > 0)
            continue;
        volatile uint64_t sum = 0;
        for (uint64_t page = 0; page < pages; page++)
            sum += memory[page * WORDS];
        for (;;)
            pause();
    }
}

static void hold(uint64_t mib, const char *shared) {
    pages = mib * 256;
    memory = map(pages * PAGE + PAGE, shared);
    written = calloc(pages + 1, sizeof *written);
    if (memory == MAP_FAILED || written == NULL)
        fail("memory");
    for (uint64_t page = 0; page < pages; page++)
        write_page(page, 0);
    if (shared != NULL)
        attach();
}

// Pages at random, in portions of a millisecond; time in which it did not run is not made up for.
static void *writer(void *unused) {
    (void)unused;
    uint64_t seed = 1;
    const uint64_t portion = rate * 256 / 1000;
    for (;;) {
        pthread_mutex_lock(&writing);
        for (uint64_t i = 0; i < portion; i++) {
            seed = mix(seed);
            uint64_t page = seed % pages;
            write_page(page, ++written[page]);
        }
        pthread_mutex_unlock(&writing);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return NULL;
}

static void *sleeper(void *unused) {
    (void)unused;
    for (;;)
        pause();
    return NULL;
}

static void *echo(void *argument) {
    int listener = *(int *)argument;
    int events = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (events < 0 || epoll_ctl(events, EPOLL_CTL_ADD, listener, &event) != 0)
        fail("epoll");
    for (;;) {
        if (epoll_wait(events, &event, 1, -1) != 1)
            continue;
        int fd = event.data.fd;
        if (fd == listener) {
            fd = accept(listener, NULL, NULL);
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
            if (fd >= 0 && epoll_ctl(events, EPOLL_CTL_ADD, fd, &event) != 0)
                fail("epoll_ctl");
            continue;
        }
        char buffer[256];
        ssize_t length = read(fd, buffer, sizeof buffer);
        if (length <= 0 || write(fd, buffer, (size_t)length) != length)
            close(fd);
    }
    return NULL;
}

static int listen_at(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0)
        fail("listen");
    return fd;
}

static void start(void *(*body)(void *), void *argument) {
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    if (pthread_create(&thread, &small, body, argument) != 0)
        fail("pthread_create");
}

// How many processes have looked at their memory since they were asked, and of how many it was damaged.
struct verdicts {
    atomic_int given;
    atomic_int bad;
};

static void child(const sigset_t *set, struct verdicts *verdicts, uint64_t mib) {
    hold(mib, NULL);
    for (int number;;) {
        if (sigwait(set, &number) != 0)
            continue;
        if (!is_intact())
            atomic_fetch_add(&verdicts->bad, 1);
        atomic_fetch_add(&verdicts->given, 1);
    }
}

int main(int argc, char **argv) {
    if (argc != 7 && argc != 8)
        return 2;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct verdicts *verdicts = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int children = atoi(argv[5]) - 1;
    pid_t *pids = calloc((size_t)children + 1, sizeof *pids);
    if (verdicts == MAP_FAILED || pids == NULL)
        fail("memory");
    for (int i = 0; i < children; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            fail("fork");
        if (pids[i] == 0)
            child(&set, verdicts, strtoull(argv[6], NULL, 10));
    }
    hold(strtoull(argv[2], NULL, 10), argc > 7 ? argv[7] : NULL);
    rate = strtoull(argv[3], NULL, 10);
    int listener = listen_at(atoi(argv[1]));
    start(echo, &listener);
    if (rate > 0)
        start(writer, NULL);
    for (int i = 1; i < atoi(argv[4]); i++)
        start(sleeper, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    // Children fill their memory meanwhile; asked now, they answer when they are ready.
    printf("ready\n");
    for (int number;;) {
        if (sigwait(&set, &number) != 0)
            continue;
        atomic_store(&verdicts->given, 0);
        atomic_store(&verdicts->bad, 0);
        for (int i = 0; i < children; i++)
            kill(pids[i], SIGUSR1);
        pthread_mutex_lock(&writing);
        int intact = is_intact();
        pthread_mutex_unlock(&writing);
        while (atomic_load(&verdicts->given) < children)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        printf(intact && atomic_load(&verdicts->bad) == 0 ? "intact\n" : "damaged\n");
    }
}
