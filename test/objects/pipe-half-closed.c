// Pipes with one side gone: content then end of file, EPIPE for the writer; and packet mode.
#include "support/object.h"

int main(int argc, char **argv) {
    object_start(argc, argv);
    int content[2], empty[2], no_reader[2], packets[2];
    char text[64];
    MUST(pipe(content));
    CHECK(write(content[1], "the last words", 14) == 14, "write");
    close(content[1]);
    MUST(pipe(empty));
    close(empty[1]);
    MUST(pipe(no_reader));
    close(no_reader[0]);
    MUST(pipe2(packets, O_DIRECT));
    CHECK(write(packets[1], "one", 3) == 3 && write(packets[1], "three", 5) == 5, "write");
    MUST(signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
    object_ready_and_wait();
    SABOTAGE(CHECK(read(content[0], text, 1) == 1, "read"));
    CHECK_EQUAL(read(content[0], text, sizeof text), 14, "length of the last words");
    CHECK(memcmp(text, "the last words", 14) == 0, "the last words differ");
    CHECK_EQUAL(read(content[0], text, sizeof text), 0, "read at the end");
    CHECK_EQUAL(read(empty[0], text, sizeof text), 0, "read from the empty pipe");
    CHECK(write(no_reader[1], "x", 1) == -1 && errno == EPIPE, "write without a reader");
    CHECK((fcntl(packets[1], F_GETFL) & O_DIRECT) != 0, "packet mode is lost");
    CHECK_EQUAL(read(packets[0], text, sizeof text), 3, "length of the first packet");
    CHECK_EQUAL(read(packets[0], text, sizeof text), 5, "length of the second packet");
    object_pass();
}
