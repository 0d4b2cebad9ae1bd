// A pipe between two children and their parent: bytes in flight, a stream written and read without
// pause during the dump, and a reader that must see the end only when the last writer closes.
#include "support/object.h"

enum { BATCH = 512 };

static int stream[2], quiet[2];

static void writer(void *argument) {
    (void)argument;
    uint64_t words[BATCH / 8], next = 0;
    sigset_t one;
    struct timespec no_time = {0};
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    close(stream[0]);
    close(quiet[0]);
    object_child_ready();
    while (sigtimedwait(&one, NULL, &no_time) != SIGUSR1) {
        for (int i = 0; i < BATCH / 8; i++) {
            words[i] = object_word(1, next++);
        }
        // A pipe takes up to PIPE_BUF bytes whole.
        CHECK(write(stream[1], words, BATCH) == BATCH, "write: %s", strerror(errno));
        SABOTAGE(if (next == 10 * BATCH) next++);
        usleep(500);
    }
}

static void reader(void *argument) {
    (void)argument;
    uint64_t word, next = 0;
    close(stream[1]);
    close(quiet[1]);
    object_child_ready();
    ssize_t got;
    size_t have = 0;
    while ((got = read(stream[0], (char *)&word + have, sizeof word - have)) > 0) {
        have += (size_t)got;
        if (have == sizeof word) {
            CHECK(word == object_word(1, next), "word %lu of the stream is wrong", next);
            next++;
            have = 0;
        }
    }
    CHECK(got == 0 && have == 0, "the stream ends with %zd, %zu bytes left", got, have);
    CHECK(next > 0, "nothing came");
    object_wait();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    MUST(pipe(stream));
    MUST(pipe(quiet));
    pid_t writing = object_fork(writer, NULL);
    pid_t reading = object_fork(reader, NULL);
    close(stream[0]);
    close(stream[1]);
    CHECK(write(quiet[1], "left behind", 11) == 11, "write: %s", strerror(errno));
    object_sleep_ms(50);
    object_ready_and_wait();
    char text[32] = {0};
    object_join(writing);
    // The only writer has ended, so the reader comes to the end of its stream and then waits.
    object_join(reading);
    CHECK_EQUAL(read(quiet[0], text, sizeof text), 11, "length of what was left in the pipe");
    CHECK(strcmp(text, "left behind") == 0, "it says %s", text);
    object_pass();
}
