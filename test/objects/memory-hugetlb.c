// Memory of hugetlbfs: private and shared anonymous, a memfd, a System V segment. argv[2] names it.
#include <linux/memfd.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "support/object.h"

enum { HUGE = 2 << 20 };

static char *memory;

static void child_body(void *argument) {
    (void)argument;
    object_child_wait();
    CHECK_FILLED(memory, HUGE, 1, "the child's memory");
    memory[HUGE + 5] = 42;
}

static void skip_without_pages(void) {
    void *page = mmap(NULL, HUGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    if (page == MAP_FAILED) {
        object_put_file("result", "SKIP no huge pages (vm.nr_overcommit_hugepages)\n");
        exit(0);
    }
    munmap(page, HUGE);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "private";
    skip_without_pages();
    int prot = PROT_READ | PROT_WRITE, fd = -1;
    if (strcmp(kind, "private") == 0) {
        memory = object_map(2 * HUGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    } else if (strcmp(kind, "shared") == 0) {
        memory = object_map(2 * HUGE, prot, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    } else if (strcmp(kind, "memfd") == 0) {
        fd = MUST(memfd_create("huge", MFD_HUGETLB | MFD_CLOEXEC));
        MUST(ftruncate(fd, 2 * HUGE));
        memory = object_map(2 * HUGE, prot, MAP_SHARED, fd, 0);
    } else {
        int id = MUST(shmget(IPC_PRIVATE, 2 * HUGE, IPC_CREAT | SHM_HUGETLB | 0600));
        memory = shmat(id, NULL, 0);
        MUST(shmctl(id, IPC_RMID, NULL));
        CHECK(memory != (void *)-1, "shmat: %s", strerror(errno));
    }
    bool shared = strcmp(kind, "private") != 0;
    object_fill(memory, HUGE, 1);
    pid_t child = object_fork(child_body, shared ? memory : NULL);
    object_ready_and_wait();
    SABOTAGE(memory[77]++);
    CHECK_FILLED(memory, HUGE, 1, "the memory");
    CHECK_EQUAL(memory[HUGE + 5], 0, "the second page");
    char smaps[65536], start[32];
    object_read("/proc/self/smaps", smaps, sizeof smaps);
    snprintf(start, sizeof start, "%lx-", (unsigned long)memory);
    char *at = strstr(smaps, start);
    CHECK(at != NULL && (at = strstr(at, "KernelPageSize:")) != NULL, "the mapping is not there");
    CHECK_EQUAL(atoi(at + strlen("KernelPageSize:")), HUGE / 1024, "page size in kB");
    object_join(child);
    CHECK_EQUAL(memory[HUGE + 5], shared ? 42 : 0, "what the child wrote");
    if (fd >= 0) {
        char byte;
        CHECK(pread(fd, &byte, 1, 100) == 1 && byte == memory[100], "the descriptor's content");
    }
    object_pass();
}
