// Two hundred threads that each add to a shared counter under a lock, over and over, while they
// are dumped. Every addition is also counted by the thread itself: both sums must agree.
#include "support/object.h"

enum { THREADS = 200, STACK = 64 * 1024 };

static pthread_t threads[THREADS];
static pid_t tids[THREADS];
static uint64_t own[THREADS];
static uint64_t total;
static volatile bool stop;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *body(void *argument) {
    int index = (int)(intptr_t)argument;
    tids[index] = object_tid();
    while (!stop) {
        pthread_mutex_lock(&mutex);
        total++;
        own[index]++;
        pthread_mutex_unlock(&mutex);
        usleep(20000);
    }
    CHECK_EQUAL(object_tid(), tids[index], "tid");
    return NULL;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    MUST_BE_ZERO(pthread_attr_setstacksize(&attributes, STACK));
    for (int i = 0; i < THREADS; i++) {
        MUST_BE_ZERO(pthread_create(&threads[i], &attributes, body, (void *)(intptr_t)i));
    }
    object_sleep_ms(100);
    object_ready_and_wait();
    pthread_mutex_lock(&mutex);
    uint64_t at_check[THREADS];
    memcpy(at_check, own, sizeof own);
    pthread_mutex_unlock(&mutex);
    object_sleep_ms(300);
    stop = true;
    uint64_t sum = 0;
    for (int i = 0; i < THREADS; i++) {
        MUST_BE_ZERO(pthread_join(threads[i], NULL));
        CHECK(own[i] > at_check[i], "thread %d stands still since the check began", i);
        sum += own[i];
    }
    SABOTAGE(sum++);
    CHECK_EQUAL(total, sum, "the total");
    object_pass();
}
