// Regular files: position, access mode, status flags, close-on-exec, descriptor numbers.
#include "support/object.h"

int main(int argc, char **argv) {
    object_start(argc, argv);
    char path[PATH_MAX], buffer[100], want[50000];
    object_fill(want, sizeof want, 7);
    int reader = object_file("data", O_RDONLY | O_CLOEXEC, sizeof want, 7);
    MUST(lseek(reader, 12345, SEEK_SET));
    int writer = MUST(open(object_path(path, "data"), O_WRONLY | O_NOFOLLOW | O_NOATIME));
    MUST(lseek(writer, 20000, SEEK_SET));
    int appender = object_file("appended", O_RDWR | O_APPEND | O_NONBLOCK, 100, 8);
    CHECK(write(appender, "first", 5) == 5, "append: %s", strerror(errno));
    MUST(lseek(appender, 3, SEEK_SET));
    int beyond = object_file("beyond", O_RDWR, 10, 9);
    MUST(lseek(beyond, 1L << 40, SEEK_SET));
    int high = MUST(fcntl(reader, F_DUPFD, 777));
    close(reader);
    object_ready_and_wait();
    SABOTAGE(lseek(writer, -1, SEEK_CUR));
    CHECK(fcntl(reader, F_GETFD) == -1 && errno == EBADF, "descriptor %d is open", reader);
    CHECK_EQUAL(high, 777, "the descriptor's number");
    CHECK_EQUAL(lseek(high, 0, SEEK_CUR), 12345, "the reader's position");
    CHECK_EQUAL(read(high, buffer, sizeof buffer), sizeof buffer, "read");
    CHECK(memcmp(buffer, want + 12345, sizeof buffer) == 0, "the reader reads something else");
    CHECK(write(high, "x", 1) == -1 && errno == EBADF, "the reader can write");
    CHECK_EQUAL(lseek(writer, 0, SEEK_CUR), 20000, "the writer's position");
    CHECK(read(writer, buffer, 1) == -1 && errno == EBADF, "the writer can read");
    // O_LARGEFILE is set by the kernel on its own for 64-bit processes.
    int mask = O_ACCMODE | O_APPEND | O_NONBLOCK | O_NOATIME | O_NOFOLLOW | O_SYNC | O_DIRECT;
    CHECK_EQUAL(fcntl(writer, F_GETFL) & mask, O_WRONLY | O_NOFOLLOW | O_NOATIME, "flags");
    CHECK_EQUAL(fcntl(appender, F_GETFL) & mask, O_RDWR | O_APPEND | O_NONBLOCK, "append flags");
    CHECK_EQUAL(lseek(appender, 0, SEEK_CUR), 3, "the appender's position");
    CHECK(write(appender, "second", 6) == 6, "append: %s", strerror(errno));
    CHECK_EQUAL(lseek(appender, 0, SEEK_CUR), 111, "the appender's position afterwards");
    CHECK(pread(appender, buffer, 11, 100) == 11 && memcmp(buffer, "firstsecond", 11) == 0,
          "the appended text is wrong");
    CHECK_EQUAL(lseek(beyond, 0, SEEK_CUR), 1L << 40, "the position beyond the end");
    struct stat status;
    MUST(fstat(beyond, &status));
    CHECK_EQUAL(status.st_size, 10, "size of the short file");
    object_pass();
}
