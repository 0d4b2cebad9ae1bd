// What each thread has for itself: ids, capabilities, name, nice, policy, affinity, timer slack, I/O
// priority, keep-caps and securebits, no_new_privs, parent-death signal.
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "support/object.h"

enum { THREADS = 4, LENGTH = 4096 };

static pthread_barrier_t begin, end;

static void describe(char *text) {
    char path[64], name[17] = "", status[LENGTH], *rest = NULL;
    pid_t tid = object_tid();
    uid_t r, e, s;
    gid_t gr, ge, gs;
    struct sched_param parameter;
    cpu_set_t set;
    syscall(SYS_getresuid, &r, &e, &s);
    syscall(SYS_getresgid, &gr, &ge, &gs);
    prctl(PR_GET_NAME, name);
    sched_getparam(0, &parameter);
    sched_getaffinity(0, sizeof set, &set);
    int deathsig = 0;
    prctl(PR_GET_PDEATHSIG, &deathsig);
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    object_read(path, status, sizeof status);
    int used = snprintf(text, LENGTH,
                        "tid %d uid %u %u %u gid %u %u %u name %s nice %d policy %d prio %d cpus "
                        "%d/%d slack %d ioprio %ld keepcaps %d securebits %d nnp %d death %d\n",
                        tid, r, e, s, gr, ge, gs, name, getpriority(PRIO_PROCESS, (id_t)tid),
                        sched_getscheduler(0), parameter.sched_priority, CPU_COUNT(&set),
                        CPU_ISSET(0, &set), prctl(PR_GET_TIMERSLACK),
                        syscall(SYS_ioprio_get, 1, 0), prctl(PR_GET_KEEPCAPS),
                        prctl(PR_GET_SECUREBITS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), deathsig);
    /* Whole lines, and only those of credentials: the size of the descriptor table, which stands
     * between them, is how far the table ever grew and no state of the thread. */
    for (char *line = strtok_r(status, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "Uid:", 4) == 0 || strncmp(line, "Gid:", 4) == 0 ||
            strncmp(line, "Groups:", 7) == 0 || strncmp(line, "Cap", 3) == 0 ||
            strncmp(line, "NoNewPrivs:", 11) == 0) {
            used += snprintf(text + used, (size_t)(LENGTH - used), "%s\n", line);
        }
    }
}

static void set_up(int number) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    char name[16];
    snprintf(name, sizeof name, "thread %d", number);
    prctl(PR_SET_NAME, name);
    MUST(prctl(PR_SET_TIMERSLACK, 70000 + number));
    if (number == 1) {
        MUST(sched_setaffinity(0, sizeof set, &set));
        MUST(setpriority(PRIO_PROCESS, (id_t)object_tid(), 7));
        MUST(syscall(SYS_ioprio_set, 1, 0, (2 << 13) | 3));
        MUST(prctl(PR_SET_KEEPCAPS, 1));
        MUST(syscall(SYS_setresuid, 11, 12, 13));
    } else if (number == 2) {
        struct sched_param parameter = {.sched_priority = 0};
        MUST(sched_setscheduler(0, SCHED_BATCH, &parameter));
        MUST(setpriority(PRIO_PROCESS, (id_t)object_tid(), -3));
        MUST(syscall(SYS_ioprio_set, 1, 0, (3 << 13)));
        MUST(syscall(SYS_setresgid, 21, 22, 23));
        MUST(syscall(SYS_setfsgid, 22));
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    } else if (number == 3) {
        struct sched_param parameter = {.sched_priority = 12};
        MUST(sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameter));
        gid_t groups[] = {5, 6, 1000};
        MUST(syscall(SYS_setgroups, 3, groups));
        MUST(prctl(PR_SET_SECUREBITS, 0x2f & ~0x10));
        MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
    } else {
        struct sched_param parameter = {.sched_priority = 0};
        MUST(sched_setscheduler(0, SCHED_IDLE, &parameter));
    }
}

static void *body(void *argument) {
    char was[LENGTH], is[LENGTH];
    set_up((int)(intptr_t)argument);
    describe(was);
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&end);
    SABOTAGE(prctl(PR_SET_NAME, "another"));
    describe(is);
    CHECK(strcmp(was, is) == 0, "was\n%s\nis\n%s", was, is);
    return NULL;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    pthread_t threads[THREADS];
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (intptr_t i = 0; i < THREADS; i++) {
        MUST_BE_ZERO(pthread_create(&threads[i], NULL, body, (void *)i));
    }
    pthread_barrier_wait(&begin);
    object_ready_and_wait();
    pthread_barrier_wait(&end);
    for (int i = 0; i < THREADS; i++) {
        MUST_BE_ZERO(pthread_join(threads[i], NULL));
    }
    object_pass();
}
