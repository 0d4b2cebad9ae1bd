// Shared open file descriptions: dup in one process, inherited by a child, and two separate opens
// of one file that must stay separate. Also append mode shared by two processes.
#include "support/object.h"

static int fd, duplicate, separate, log_fd;

static void child(void *argument) {
    (void)argument;
    object_child_wait();
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 1000, "position in the child");
    MUST(lseek(duplicate, 2000, SEEK_SET));
    MUST(fcntl(fd, F_SETFL, O_APPEND));
    CHECK(write(log_fd, "child\n", 6) == 6, "append: %s", strerror(errno));
    CHECK_EQUAL(lseek(separate, 0, SEEK_CUR), 77, "the separate position in the child");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char path[PATH_MAX], text[64];
    fd = object_file("data", O_RDWR, 5000, 1);
    duplicate = MUST(fcntl(fd, F_DUPFD_CLOEXEC, 50));
    separate = MUST(open(object_path(path, "data"), O_RDWR));
    log_fd = object_file("log", O_WRONLY | O_APPEND, 0, 0);
    MUST(lseek(separate, 77, SEEK_SET));
    object_fork(child, NULL);
    MUST(lseek(fd, 1000, SEEK_SET)); // after the fork: only a shared description shows this
    object_ready_and_wait();
    SABOTAGE(fd = MUST(open(path, O_RDWR)));
    CHECK_EQUAL(lseek(duplicate, 0, SEEK_CUR), 1000, "position of the duplicate");
    CHECK(write(log_fd, "parent\n", 7) == 7, "append: %s", strerror(errno));
    object_join_all();
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 2000, "position after the child moved it");
    CHECK((fcntl(duplicate, F_GETFL) & O_APPEND) != 0, "the flag the child set is not shared");
    CHECK_EQUAL(fcntl(duplicate, F_GETFD), FD_CLOEXEC, "close-on-exec of the duplicate");
    CHECK_EQUAL(fcntl(fd, F_GETFD), 0, "close-on-exec");
    CHECK_EQUAL(lseek(separate, 0, SEEK_CUR), 77, "the separate position");
    CHECK((fcntl(separate, F_GETFL) & O_APPEND) == 0, "the separate one got the flag too");
    object_read(object_path(path, "log"), text, sizeof text);
    CHECK(strcmp(text, "parent\nchild\n") == 0, "the log says %s", text);
    object_pass();
}
