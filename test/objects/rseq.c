// Restartable sequences, as glibc registers them for each thread: the kernel keeps writing the
// current processor into the same area.
#include <sched.h>
#include <sys/rseq.h>

#include "support/object.h"

enum { THREADS = 3 };

static pthread_barrier_t set_up, checked;

static volatile struct rseq *area(void) {
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void check(const char *who) {
    SABOTAGE(syscall(SYS_rseq, area(), 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG));
    // Stale words would stay as they are: the kernel must overwrite them, at the latest when the
    // thread is moved to another processor or preempted.
    *(volatile uint32_t *)&area()->cpu_id_start = 0;
    *(volatile uint32_t *)&area()->cpu_id = 12345;
    cpu_set_t all, one;
    MUST(sched_getaffinity(0, sizeof all, &all));
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) {
            continue;
        }
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        MUST(sched_setaffinity(0, sizeof one, &one));
        usleep(2000);
        CHECK_EQUAL(area()->cpu_id, cpu, who);
    }
    MUST(sched_setaffinity(0, sizeof all, &all));
    // A second registration of another area is refused as long as the first one stands.
    static __thread struct rseq other __attribute__((aligned(32)));
    long result = syscall(SYS_rseq, &other, 32, 0, RSEQ_SIG);
    CHECK(result == -1 && (errno == EINVAL || errno == EBUSY), "%s: a second area was taken", who);
}

static void *body(void *argument) {
    volatile struct rseq *before = area();
    pthread_barrier_wait(&set_up);
    pthread_barrier_wait(&checked);
    CHECK(area() == before, "the area moved");
    check("a thread's cpu_id");
    return argument;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    if (__rseq_size == 0) {
        object_put_file("result", "SKIP glibc has not registered rseq\n");
        exit(0);
    }
    pthread_t threads[THREADS];
    MUST_BE_ZERO(pthread_barrier_init(&set_up, NULL, THREADS + 1));
    MUST_BE_ZERO(pthread_barrier_init(&checked, NULL, THREADS + 1));
    for (int i = 0; i < THREADS; i++) {
        MUST_BE_ZERO(pthread_create(&threads[i], NULL, body, NULL));
    }
    pthread_barrier_wait(&set_up);
    object_ready_and_wait();
    pthread_barrier_wait(&checked);
    check("the main thread's cpu_id");
    for (int i = 0; i < THREADS; i++) {
        MUST_BE_ZERO(pthread_join(threads[i], NULL));
    }
    object_pass();
}
