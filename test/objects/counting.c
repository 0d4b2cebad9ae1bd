// One process that counts into a file without pause: the dump falls anywhere in the loop.
// A number lost or repeated shows as a gap or a double in the file.
#include "support/object.h"

static volatile sig_atomic_t stop;

static void on_signal(int signal_number) {
    (void)signal_number;
    stop = 1;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    char path[PATH_MAX], line[32], expected[32];
    int fd = MUST(open(object_path(path, "numbers"), O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0666));
    struct sigaction action = {.sa_handler = on_signal};
    MUST(sigaction(SIGUSR1, &action, NULL));
    sigset_t none;
    sigemptyset(&none);
    MUST(sigprocmask(SIG_SETMASK, &none, NULL));
    long count = 0;
    object_ready();
    while (!stop) {
        int length = snprintf(line, sizeof line, "%ld\n", ++count);
        CHECK(write(fd, line, (size_t)length) == length, "write: %s", strerror(errno));
        for (volatile int i = 0; i < 20000; i++) {
        }
    }
    SABOTAGE(count++);
    FILE *numbers = fopen(path, "r");
    CHECK(numbers != NULL, "open %s: %s", path, strerror(errno));
    for (long i = 1; i <= count; i++) {
        snprintf(expected, sizeof expected, "%ld\n", i);
        CHECK(fgets(line, sizeof line, numbers), "the file ends after %ld of %ld", i - 1, count);
        CHECK(strcmp(line, expected) == 0, "line %ld says %s", i, line);
    }
    CHECK(fgets(line, sizeof line, numbers) == NULL, "the file goes on with %s", line);
    object_pass();
}
