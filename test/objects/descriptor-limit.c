// A process that uses nearly all descriptors that its limit allows, or whose limit is lower than
// what it has. argv[2]: full, lowered.
#include <sys/resource.h>

#include "support/object.h"

enum { LIMIT = 1000 };

int main(int argc, char **argv) {
    object_start(argc, argv);
    bool is_lowered = argc > 2 && strcmp(argv[2], "lowered") == 0;
    struct rlimit limit = {LIMIT, LIMIT}, now;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    for (int fd = 0; fd < LIMIT - 1;) {
        fd = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
    }
    // Room for the file that says READY.
    close(LIMIT - 1);
    if (is_lowered) {
        limit = (struct rlimit){LIMIT / 4, LIMIT / 4};
        close(3);
        MUST(setrlimit(RLIMIT_NOFILE, &limit));
    }
    object_ready_and_wait();
    SABOTAGE(close(LIMIT - 2));
    for (int fd = is_lowered ? 4 : 3; fd < LIMIT - 1; fd++) {
        CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "descriptor %d: %s", fd, strerror(errno));
    }
    MUST(getrlimit(RLIMIT_NOFILE, &now));
    CHECK(now.rlim_cur == limit.rlim_cur && now.rlim_max == limit.rlim_max, "the limit is %llu, %llu",
          (unsigned long long)now.rlim_cur, (unsigned long long)now.rlim_max);
    int last = MUST(open("/dev/null", O_RDONLY));
    CHECK_EQUAL(last, is_lowered ? 3 : LIMIT - 1, "the last descriptor");
    CHECK(open("/dev/null", O_RDONLY) == -1 && errno == EMFILE, "one more");
    close(last);
    object_pass();
}
