// A program that notices what is done to it. Arguments: what its first thread does, `compute` or `block`, and a file, in
// which it counts rounds of two threads. One computes, with registers of all kinds; one blocks in calls that a tracer
// interrupts. It ends at the first thing that is not as it must be.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t *rounds;

static void must(int good, const char *what) {
    if (good) return;
    fprintf(stderr, "steady: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static double numbers(uint64_t *whole) {
    uint64_t x = 88172645463325252u;
    double sum = 0;
    for (int i = 0; i < 20000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum = sum * 0.999 + (double)(x >> 40);
    }
    *whole = x;
    return sum;
}

static void *compute(void *unused) {
    uint64_t first, now;
    double expected = numbers(&first);
    for (;;) {
        double sum = numbers(&now);
        must(sum == expected && now == first, "computed something else");
        rounds[0]++;
    }
    return unused;
}

static void *block(void *unused) {
    sigset_t before, now;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    for (;;) {
        struct timespec nap = {0, 3000000}, left;
        must(nanosleep(&nap, &left) == 0, "nanosleep");
        must(poll(NULL, 0, 3) == 0, "poll");
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec = (at.tv_nsec + 3000000) % 1000000000;
        at.tv_sec += at.tv_nsec < 3000000;
        must(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == 0, "clock_nanosleep");
        pthread_sigmask(SIG_SETMASK, NULL, &now);
        must(memcmp(&before, &now, 8) == 0, "the signal mask is another one");
        rounds[1]++;
    }
    return unused;
}

int main(int argc, char **argv) {
    must(argc == 3, "usage: steady compute|block FILE");
    // What the test's own parents left open is nothing of ours.
    must(close_range(3, ~0u, 0) == 0, "close_range");
    int fd = open(argv[2], O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && ftruncate(fd, 4096) == 0, argv[2]);
    rounds = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(rounds != MAP_FAILED, "mmap");
    int blocks = strcmp(argv[1], "block") == 0;
    pthread_t other;
    must(pthread_create(&other, NULL, blocks ? compute : block, NULL) == 0, "pthread_create");
    (blocks ? block : compute)(NULL);
}
