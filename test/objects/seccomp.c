// Seccomp filters: two stacked ones that refuse a call with an error of their own, and (argv[2] =
// threads) a filter that only one of two threads has.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include "support/object.h"

static void refuse(int number, int error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = COUNT_OF(code), .filter = code};
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static int error_of(long result) {
    return result == -1 ? errno : 0;
}

static pthread_barrier_t set_up, checked;

static void *filtered_thread(void *argument) {
    (void)argument;
    refuse(SYS_getpriority, 77);
    pthread_barrier_wait(&set_up);
    pthread_barrier_wait(&checked);
    CHECK_EQUAL(error_of(syscall(SYS_getpriority, 0, 0)), 77, "error in the filtered thread");
    CHECK_EQUAL(error_of(syscall(SYS_getpgid, 0)), 78, "error of the common filter");
    return NULL;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    bool has_threads = argc > 2 && strcmp(argv[2], "threads") == 0;
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    refuse(SYS_getpgid, 78);
    pthread_t thread;
    if (has_threads) {
        MUST_BE_ZERO(pthread_barrier_init(&set_up, NULL, 2));
        MUST_BE_ZERO(pthread_barrier_init(&checked, NULL, 2));
        MUST_BE_ZERO(pthread_create(&thread, NULL, filtered_thread, NULL));
        pthread_barrier_wait(&set_up);
    } else {
        refuse(SYS_getpriority, 79);
    }
    object_ready_and_wait();
    int want = has_threads ? 0 : 79;
    SABOTAGE(want++);
    CHECK_EQUAL(error_of(syscall(SYS_getpriority, 0, 0)), want, "error of getpriority");
    CHECK_EQUAL(error_of(syscall(SYS_getpgid, 0)), 78, "error of getpgid");
    CHECK_EQUAL(prctl(PR_GET_SECCOMP), SECCOMP_MODE_FILTER, "mode");
    CHECK_EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1, "no_new_privs");
    if (has_threads) {
        pthread_barrier_wait(&checked);
        MUST_BE_ZERO(pthread_join(thread, NULL));
    }
    object_pass();
}
