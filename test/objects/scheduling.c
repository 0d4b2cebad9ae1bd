// What the scheduler knows of a process: nice value, policy, processor affinity, I/O priority, and
// the signal that the death of the parent brings.
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "support/object.h"

static cpu_set_t last_cpu(void) {
    cpu_set_t all, one;
    MUST(sched_getaffinity(0, sizeof all, &all));
    CPU_ZERO(&one);
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--) {
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &one);
            return one;
        }
    }
    return all;
}

static void child(void *argument) {
    (void)argument;
    struct sched_param none = {0}, real_time = {.sched_priority = 3};
    bool has_real_time = sched_setscheduler(0, SCHED_RR, &real_time) == 0;
    if (!has_real_time) {
        MUST(sched_setscheduler(0, SCHED_IDLE, &none));
    }
    MUST(prctl(PR_SET_PDEATHSIG, SIGTERM));
    object_child_wait();
    CHECK_EQUAL(sched_getscheduler(0), has_real_time ? SCHED_RR : SCHED_IDLE, "child's policy");
    struct sched_param now;
    MUST(sched_getparam(0, &now));
    CHECK_EQUAL(now.sched_priority, has_real_time ? 3 : 0, "child's real-time priority");
    int death_signal = 0;
    MUST(prctl(PR_GET_PDEATHSIG, &death_signal));
    CHECK_EQUAL(death_signal, SIGTERM, "signal on the parent's death");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    struct sched_param none = {0};
    object_fork(child, NULL);
    MUST(setpriority(PRIO_PROCESS, 0, 7));
    MUST(sched_setscheduler(0, SCHED_BATCH, &none));
    cpu_set_t want = last_cpu(), got;
    MUST(sched_setaffinity(0, sizeof want, &want));
    const int io_priority = 2 << 13 | 6; // class best effort, level 6
    MUST(syscall(SYS_ioprio_set, 1, 0, io_priority));
    object_ready_and_wait();
    SABOTAGE(setpriority(PRIO_PROCESS, 0, 8));
    CHECK_EQUAL(getpriority(PRIO_PROCESS, 0), 7, "nice value");
    CHECK_EQUAL(sched_getscheduler(0), SCHED_BATCH, "policy");
    MUST(sched_getaffinity(0, sizeof got, &got));
    CHECK(CPU_EQUAL(&want, &got), "the affinity differs");
    CHECK_EQUAL(syscall(SYS_ioprio_get, 1, 0), io_priority, "I/O priority");
    object_join_all();
    object_pass();
}
