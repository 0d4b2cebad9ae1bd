// All resource limits, soft and hard, lowered and unequal.
#include <sys/resource.h>

#include "support/object.h"

int main(int argc, char **argv) {
    object_start(argc, argv);
    static const struct {
        int which;
        rlim_t soft, hard;
    } limits[] = {
        {RLIMIT_NOFILE, 123, 456},
        {RLIMIT_CORE, 0, 7 << 20},
        {RLIMIT_STACK, 3 << 20, 64 << 20},
        {RLIMIT_NPROC, 3000, 4000},
        {RLIMIT_FSIZE, 1 << 30, RLIM_INFINITY},
        {RLIMIT_MEMLOCK, 128 << 10, 1 << 20},
        {RLIMIT_SIGPENDING, 77, 99},
        {RLIMIT_MSGQUEUE, 1000, 2000},
        {RLIMIT_CPU, 1000, 2000},
        {RLIMIT_DATA, 1UL << 40, 1UL << 41},
        {RLIMIT_AS, 1UL << 42, 1UL << 43},
    };
    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        struct rlimit limit = {.rlim_cur = limits[i].soft, .rlim_max = limits[i].hard};
        CHECK(setrlimit(limits[i].which, &limit) == 0, "setrlimit %d: %s", limits[i].which,
              strerror(errno));
    }
    object_ready_and_wait();
    SABOTAGE(struct rlimit other = {122, 456}; MUST(setrlimit(RLIMIT_NOFILE, &other)));
    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        struct rlimit limit;
        MUST(getrlimit(limits[i].which, &limit));
        CHECK_EQUAL(limit.rlim_cur, limits[i].soft, "soft limit");
        CHECK_EQUAL(limit.rlim_max, limits[i].hard, "hard limit");
    }
    object_pass();
}
