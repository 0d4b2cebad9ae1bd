// The main thread has ended (it shows as a zombie), another thread carries on.
#include "support/object.h"

static pid_t main_tid;

static void *survivor(void *argument) {
    (void)argument;
    char state[4096], path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", main_tid);
    do {
        usleep(1000);
        object_read(path, state, sizeof state);
    } while (strrchr(state, ')')[2] != 'Z');
    pid_t self = object_tid();
    object_ready_and_wait();
    SABOTAGE(self++);
    CHECK_EQUAL(object_tid(), self, "tid");
    object_read(path, state, sizeof state);
    CHECK(strrchr(state, ')')[2] == 'Z', "the main thread is not over: %s", state);
    object_pass();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    pthread_t thread;
    main_tid = object_tid();
    MUST_BE_ZERO(pthread_create(&thread, NULL, survivor, NULL));
    pthread_exit(NULL);
}
