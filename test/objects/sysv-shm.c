// System V shared memory: the segment keeps its number, key, permissions and content; attachments
// their place and protection. argv[2]: kept, removed, locked, processes, unattached, fleeting, first (in
// an IPC namespace of its own it has number 0 then).
#include <sched.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "support/object.h"

enum { SIZE = 4 * PAGE + 100, MAPPED = 5 * PAGE };

static char *memory;
static int id;

static void child_body(void *argument) {
    bool again = argument != NULL;
    if (again) {
        MUST(shmdt(memory));
        memory = shmat(id, NULL, 0);
        CHECK(memory != (void *)-1, "shmat: %s", strerror(errno));
    }
    object_child_wait();
    CHECK_FILLED(memory, SIZE - 9, 1, "the child's attachment");
    memory[SIZE - 1]++;
    MUST(shmdt(memory));
}

/// Nobody has it attached, and it would go with whoever lets go of it (kernel.shm_rmid_forced).
static void fleeting(void) {
    if (unshare(CLONE_NEWIPC) != 0) {
        object_put_file("result", "SKIP no IPC namespaces here\n");
        exit(0);
    }
    int setting = MUST(open("/proc/sys/kernel/shm_rmid_forced", O_WRONLY | O_CLOEXEC));
    CHECK(write(setting, "1", 1) == 1, "shm_rmid_forced: %s", strerror(errno));
    close(setting);
    struct shmid_ds is;
    id = MUST(shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600));
    object_ready_and_wait();
    SABOTAGE(shmctl(id, IPC_RMID, NULL));
    MUST(shmctl(id, IPC_STAT, &is));
    CHECK_EQUAL(is.shm_nattch, 0, "attachments");
    object_pass();
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "kept";
    if (strcmp(kind, "fleeting") == 0) {
        fleeting();
    }
    bool removed = strcmp(kind, "removed") == 0 || strcmp(kind, "processes") == 0;
    for (int i = 0; i < 3 && strcmp(kind, "first") != 0; i++) { // so that the number is not the first that the kernel gives
        int other = MUST(shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600));
        MUST(shmctl(other, IPC_RMID, NULL));
    }
    key_t key = removed ? IPC_PRIVATE : 0x46000000 + getpid();
    id = MUST(shmget(key, SIZE, IPC_CREAT | IPC_EXCL | 0640));
    memory = shmat(id, NULL, 0);
    char *reader = shmat(id, NULL, SHM_RDONLY);
    CHECK(memory != (void *)-1 && reader != (void *)-1, "shmat: %s", strerror(errno));
    object_fill(memory, SIZE - 9, 1);
    struct shmid_ds was, is;
    if (removed) {
        MUST(shmctl(id, IPC_RMID, NULL)); // it goes with its last user, even when that is killed
    }
    bool family = strcmp(kind, "processes") == 0;
    if (family) {
        object_fork(child_body, NULL);
        object_fork(child_body, memory);
    }
    MUST(mprotect(reader + PAGE, PAGE, PROT_NONE));
    if (strcmp(kind, "unattached") == 0) {
        MUST(shmdt(memory));
        MUST(shmdt(reader));
    }
    if (strcmp(kind, "locked") == 0) {
        MUST(shmctl(id, SHM_LOCK, NULL));
    }
    MUST(shmctl(id, IPC_STAT, &was));
    object_ready_and_wait();
    MUST(shmctl(id, IPC_STAT, &is));
    CHECK_EQUAL(is.shm_perm.__key, was.shm_perm.__key, "key");
    CHECK_EQUAL(is.shm_perm.mode, was.shm_perm.mode, "mode");
    CHECK_EQUAL(is.shm_segsz, was.shm_segsz, "size");
    CHECK_EQUAL(is.shm_nattch, was.shm_nattch, "attachments");
    if (strcmp(kind, "unattached") == 0) {
        memory = shmat(id, NULL, 0);
        reader = shmat(id, NULL, SHM_RDONLY);
    }
    SABOTAGE(memory[5]++, removed ? 0 : shmctl(id, IPC_RMID, NULL));
    CHECK_FILLED(memory, SIZE - 9, 1, "the segment");
    memory[9] ^= 1;
    CHECK(memory[9] == reader[9], "the two attachments are not the same memory");
    memory[9] ^= 1;
    if (!removed) {
        CHECK_EQUAL(shmget(key, SIZE, 0), id, "the number behind the key");
    }
    object_join_all();
    CHECK_EQUAL(memory[SIZE - 1], family ? 2 : 0, "what the children wrote");
    MUST(shmdt(reader));
    MUST(shmdt(memory));
    if (!removed) {
        MUST(shmctl(id, IPC_RMID, NULL));
    }
    object_pass();
}
