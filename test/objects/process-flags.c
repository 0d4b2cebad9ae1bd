// Attributes of a process: argv[2] names one.
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "support/object.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif
#ifndef PR_THP_DISABLE_EXCEPT_ADVISED
#define PR_THP_DISABLE_EXCEPT_ADVISED 2
#endif
#ifndef MEMBARRIER_CMD_GET_REGISTRATIONS
#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9)
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

static void write_text(const char *path, const char *text) {
    int fd = MUST(open(path, O_WRONLY));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write %s: %s", path,
          strerror(errno));
    close(fd);
}

static long number_of(const char *path) {
    char text[256];
    object_read(path, text, sizeof text);
    return strtol(text, NULL, 0);
}

static void autogroup_text(char *text, size_t size) {
    object_read("/proc/self/autogroup", text, size);
}

static struct {
    char autogroup[128];
} was;

static void set_up(const char *kind) {
    if (strcmp(kind, "dumpable") == 0) {
        MUST(prctl(PR_SET_DUMPABLE, 0));
    } else if (strcmp(kind, "mce") == 0) {
        MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
    } else if (strcmp(kind, "tsc") == 0) {
        MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
    } else if (strcmp(kind, "mdwe") == 0) {
        if (prctl(PR_SET_MDWE, 1, 0, 0, 0) < 0) {
            object_put_file("result", "SKIP no PR_SET_MDWE\n");
            exit(0);
        }
    } else if (strcmp(kind, "io-flusher") == 0) {
        if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0) {
            object_put_file("result", "SKIP no CAP_SYS_RESOURCE\n");
            exit(0);
        }
    } else if (strcmp(kind, "memory-merge") == 0) {
        MUST(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0));
    } else if (strcmp(kind, "autogroup") == 0) {
        write_text("/proc/self/autogroup", "5");
        autogroup_text(was.autogroup, sizeof was.autogroup);
    } else if (strcmp(kind, "loginuid") == 0) {
        int fd = open("/proc/self/loginuid", O_WRONLY);
        if (fd < 0 || write(fd, "1234", 4) != 4) {
            object_put_file("result", "SKIP loginuid cannot be set\n");
            exit(0);
        }
        close(fd);
    } else if (strcmp(kind, "oom") == 0) {
        write_text("/proc/self/oom_score_adj", "137");
        write_text("/proc/self/coredump_filter", "0x12");
    } else if (strcmp(kind, "personality") == 0) {
        MUST(personality(ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC | SHORT_INODE));
    } else if (strcmp(kind, "deadline") == 0) {
        struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } a = {48, 6, 0, 0, 0, 1000000, 20000000, 30000000};
        MUST(syscall(SYS_sched_setattr, 0, &a, 0));
    } else if (strcmp(kind, "thp") == 0) {
        MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    } else if (strcmp(kind, "thp-advised") == 0) {
        if (prctl(PR_SET_THP_DISABLE, 1, PR_THP_DISABLE_EXCEPT_ADVISED, 0, 0) < 0) {
            object_put_file("result", "SKIP no PR_THP_DISABLE_EXCEPT_ADVISED\n");
            exit(0);
        }
    } else if (strcmp(kind, "membarrier") == 0) {
        MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
        MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
        MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0));
    } else {
        CHECK(false, "there is no %s", kind);
    }
}

static void check(const char *kind) {
    if (strcmp(kind, "dumpable") == 0) {
        CHECK_EQUAL(prctl(PR_GET_DUMPABLE), 0, "dumpable");
    } else if (strcmp(kind, "mce") == 0) {
        CHECK_EQUAL(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY, "machine checks");
    } else if (strcmp(kind, "tsc") == 0) {
        int tsc = 0;
        MUST(prctl(PR_GET_TSC, &tsc));
        CHECK_EQUAL(tsc, PR_TSC_SIGSEGV, "TSC");
        MUST(prctl(PR_SET_TSC, PR_TSC_ENABLE));
    } else if (strcmp(kind, "mdwe") == 0) {
        CHECK_EQUAL(prctl(PR_GET_MDWE, 0, 0, 0, 0), 1, "MDWE");
    } else if (strcmp(kind, "io-flusher") == 0) {
        CHECK_EQUAL(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0), 1, "I/O flusher");
    } else if (strcmp(kind, "memory-merge") == 0) {
        CHECK_EQUAL(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0), 1, "memory merge");
    } else if (strcmp(kind, "autogroup") == 0) {
        char is[128];
        autogroup_text(is, sizeof is);
        CHECK(strcmp(strstr(is, "nice"), strstr(was.autogroup, "nice")) == 0, "autogroup %s was %s", is, was.autogroup);
    } else if (strcmp(kind, "loginuid") == 0) {
        CHECK_EQUAL(number_of("/proc/self/loginuid"), 1234, "loginuid");
    } else if (strcmp(kind, "oom") == 0) {
        CHECK_EQUAL(number_of("/proc/self/oom_score_adj"), 137, "oom_score_adj");
        char text[64];
        object_read("/proc/self/coredump_filter", text, sizeof text);
        CHECK_EQUAL(strtol(text, NULL, 16), 0x12, "coredump_filter");
    } else if (strcmp(kind, "personality") == 0) {
        CHECK_EQUAL(personality(0xffffffff), ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC | SHORT_INODE, "personality");
    } else if (strcmp(kind, "deadline") == 0) {
        struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } a = {0};
        MUST(syscall(SYS_sched_getattr, 0, &a, 48, 0));
        CHECK_EQUAL(a.policy, 6, "policy");
        CHECK_EQUAL(a.runtime, 1000000, "runtime");
        CHECK_EQUAL(a.deadline, 20000000, "deadline");
        CHECK_EQUAL(a.period, 30000000, "period");
    } else if (strcmp(kind, "thp") == 0) {
        CHECK_EQUAL(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1, "THP");
    } else if (strcmp(kind, "thp-advised") == 0) {
        CHECK_EQUAL(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1 | PR_THP_DISABLE_EXCEPT_ADVISED, "THP");
    } else if (strcmp(kind, "membarrier") == 0) {
        long registered = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED |
                          MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE |
                          MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
        CHECK_EQUAL(syscall(SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0), registered,
                    "membarrier");
        MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0) < 0,
              "it is registered for what it never was");
    }
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "dumpable";
    set_up(kind);
    object_ready_and_wait();
    check(kind);
    object_pass();
}
