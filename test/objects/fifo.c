// Named pipes with content: opened for both, and reader and writer in different processes.
#include "support/object.h"

static int other = -1;
static char other_path[PATH_MAX];

static void writer(void *argument) {
    (void)argument;
    int fd = MUST(open(other_path, O_WRONLY));
    CHECK(write(fd, "before", 6) == 6, "write: %s", strerror(errno));
    object_child_wait();
    CHECK(write(fd, " after", 6) == 6, "write: %s", strerror(errno));
    CHECK_EQUAL(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_WRONLY, "the writer's flags");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char path[PATH_MAX], buffer[9000], text[32] = {0};
    MUST(mkfifo(object_path(path, "fifo"), 0666));
    int both = MUST(open(path, O_RDWR | O_NONBLOCK));
    object_fill(buffer, sizeof buffer, 3);
    CHECK(write(both, buffer, sizeof buffer) == sizeof buffer, "write: %s", strerror(errno));
    MUST(mkfifo(object_path(other_path, "other"), 0666));
    other = MUST(open(other_path, O_RDONLY | O_NONBLOCK));
    MUST(fcntl(other, F_SETFL, 0));
    object_fork(writer, NULL);
    object_ready_and_wait();
    SABOTAGE(CHECK(read(both, buffer, 1) == 1, "read"));
    memset(buffer, 0, sizeof buffer);
    CHECK_EQUAL(read(both, buffer, sizeof buffer), sizeof buffer, "length in the fifo");
    CHECK_FILLED(buffer, sizeof buffer, 3, "the fifo");
    CHECK(read(both, buffer, 1) == -1 && errno == EAGAIN, "the fifo is not empty");
    object_join_all();
    CHECK_EQUAL(read(other, text, sizeof text), 12, "length in the other fifo");
    CHECK(strcmp(text, "before after") == 0, "the other fifo says %s", text);
    CHECK_EQUAL(read(other, text, sizeof text), 0, "read after the writer's end");
    // It still is the one in the file system.
    int again = MUST(open(path, O_WRONLY | O_NONBLOCK));
    CHECK(write(again, "x", 1) == 1 && read(both, text, 2) == 1, "the fifo is another one");
    object_pass();
}
