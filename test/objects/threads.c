// Eight threads, each with its own tid, name, signal mask, thread-local storage, stack content and
// position in a futex wait; all joined afterwards.
#include <sys/prctl.h>

#include "support/object.h"

enum { THREADS = 8 };

static __thread uint64_t local[512];
static pthread_t threads[THREADS];
static pid_t tids[THREADS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int set_up_count;
static bool go;

static void *body(void *argument) {
    int index = (int)(intptr_t)argument;
    char name[16], got[16], stack[2 * PAGE];
    sigset_t mask, now;
    snprintf(name, sizeof name, "thread %d", index);
    MUST(prctl(PR_SET_NAME, name));
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMIN + index);
    MUST_BE_ZERO(pthread_sigmask(SIG_SETMASK, &mask, NULL));
    object_fill(local, sizeof local, (uint64_t)index);
    object_fill(stack, sizeof stack, (uint64_t)index + 100);
    tids[index] = object_tid();
    pthread_mutex_lock(&mutex);
    set_up_count++;
    pthread_cond_broadcast(&changed);
    while (!go) {
        pthread_cond_wait(&changed, &mutex);
    }
    pthread_mutex_unlock(&mutex);
    SABOTAGE(if (index == 5) local[77]++);
    CHECK_FILLED(local, sizeof local, (uint64_t)index, "thread-local storage");
    CHECK_FILLED(stack, sizeof stack, (uint64_t)index + 100, "the thread's stack");
    CHECK_EQUAL(object_tid(), tids[index], "tid");
    MUST(prctl(PR_GET_NAME, got));
    CHECK(strcmp(got, name) == 0, "name is %s, want %s", got, name);
    MUST_BE_ZERO(pthread_sigmask(SIG_SETMASK, NULL, &now));
    for (int number = 1; number <= 64; number++) {
        CHECK_EQUAL(sigismember(&now, number), sigismember(&mask, number), "signal's bit in mask");
    }
    CHECK(pthread_equal(pthread_self(), threads[index]), "pthread_self differs");
    return (void *)(intptr_t)(index * 7 + 1);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    for (int i = 0; i < THREADS; i++) {
        MUST_BE_ZERO(pthread_create(&threads[i], NULL, body, (void *)(intptr_t)i));
    }
    pthread_mutex_lock(&mutex);
    while (set_up_count < THREADS) {
        pthread_cond_wait(&changed, &mutex);
    }
    pthread_mutex_unlock(&mutex);
    object_ready_and_wait();
    pthread_mutex_lock(&mutex);
    go = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < THREADS; i++) {
        void *value = NULL;
        MUST_BE_ZERO(pthread_join(threads[i], &value));
        CHECK_EQUAL((intptr_t)value, i * 7 + 1, "a thread's return value");
    }
    object_pass();
}
