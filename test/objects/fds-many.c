// Fifteen hundred descriptors: files with positions, pipes with content, event counters.
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "support/object.h"

enum { EACH = 300 };

int main(int argc, char **argv) {
    object_start(argc, argv);
    static int files[EACH], duplicates[EACH], events[EACH], pipes[EACH][2];
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    char path[PATH_MAX], byte;
    close(object_file("data", O_RDONLY, 100000, 1));
    object_path(path, "data");
    for (int i = 0; i < EACH; i++) {
        files[i] = MUST(open(path, O_RDONLY));
        MUST(lseek(files[i], i * 100, SEEK_SET));
        duplicates[i] = MUST(dup(files[i]));
        events[i] = MUST(eventfd((unsigned)i + 1, EFD_NONBLOCK));
        MUST(pipe(pipes[i]));
        byte = (char)i;
        CHECK(write(pipes[i][1], &byte, 1) == 1, "write: %s", strerror(errno));
    }
    object_ready_and_wait();
    SABOTAGE(MUST(lseek(files[123], 1, SEEK_CUR)));
    for (int i = 0; i < EACH; i++) {
        CHECK_EQUAL(lseek(duplicates[i], 0, SEEK_CUR), i * 100, "position");
        MUST(lseek(files[i], 7, SEEK_CUR));
        CHECK_EQUAL(lseek(duplicates[i], 0, SEEK_CUR), i * 100 + 7, "shared position");
        eventfd_t value;
        MUST(eventfd_read(events[i], &value));
        CHECK_EQUAL(value, i + 1, "event counter");
        CHECK(read(pipes[i][0], &byte, 1) == 1 && byte == (char)i, "pipe %d", i);
    }
    object_pass();
}
