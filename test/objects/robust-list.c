// Robust lists: a thread, and a child process, that die with a robust mutex in their hands after
// the restore; the next owner must learn it (EOWNERDEAD).
#include "support/object.h"

struct shared {
    pthread_mutex_t by_thread, by_child;
    int protected_value;
};

static struct shared *shared;
static pthread_barrier_t set_up, checked;

static void make_robust(pthread_mutex_t *mutex) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    MUST_BE_ZERO(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED));
    MUST_BE_ZERO(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
    MUST_BE_ZERO(pthread_mutex_init(mutex, &attributes));
}

static void *thread(void *argument) {
    MUST_BE_ZERO(pthread_mutex_lock(&shared->by_thread));
    pthread_barrier_wait(&set_up);
    pthread_barrier_wait(&checked);
    SABOTAGE(syscall(SYS_set_robust_list, NULL, 24));
    return argument; // with the mutex locked
}

static void child(void *argument) {
    (void)argument;
    MUST_BE_ZERO(pthread_mutex_lock(&shared->by_child));
    shared->protected_value = 5;
    object_child_wait();
    CHECK_EQUAL(shared->protected_value, 5, "the shared value");
}

static void check_dead_owner(pthread_mutex_t *mutex, const char *what) {
    // The owner's death is the kernel's work: without it trylock would say EBUSY for ever.
    int error = pthread_mutex_trylock(mutex);
    CHECK(error == EOWNERDEAD, "%s: trylock says %s", what, strerror(error));
    MUST_BE_ZERO(pthread_mutex_consistent(mutex));
    MUST_BE_ZERO(pthread_mutex_unlock(mutex));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    shared = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    make_robust(&shared->by_thread);
    make_robust(&shared->by_child);
    pthread_t holder;
    MUST_BE_ZERO(pthread_barrier_init(&set_up, NULL, 2));
    MUST_BE_ZERO(pthread_barrier_init(&checked, NULL, 2));
    MUST_BE_ZERO(pthread_create(&holder, NULL, thread, NULL));
    pthread_barrier_wait(&set_up);
    object_fork(child, NULL);
    object_ready_and_wait();
    CHECK_EQUAL(pthread_mutex_trylock(&shared->by_thread), EBUSY, "trylock while it is held");
    CHECK_EQUAL(pthread_mutex_trylock(&shared->by_child), EBUSY, "trylock while it is held");
    pthread_barrier_wait(&checked);
    MUST_BE_ZERO(pthread_join(holder, NULL));
    check_dead_owner(&shared->by_thread, "the thread's mutex");
    object_join_all();
    check_dead_owner(&shared->by_child, "the child's mutex");
    object_pass();
}
