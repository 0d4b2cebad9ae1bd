// A System V shared memory segment, attached twice. Semaphores and queues are left out: they would
// outlive a killed test.
#include <sys/ipc.h>
#include <sys/shm.h>

#include "support/object.h"

int main(int argc, char **argv) {
    object_start(argc, argv);
    int id = MUST(shmget(IPC_PRIVATE, 4 * PAGE, IPC_CREAT | 0600));
    char *one = shmat(id, NULL, 0), *two = shmat(id, NULL, 0);
    MUST(shmctl(id, IPC_RMID, NULL)); // it goes with its last user, even when that is killed
    CHECK(one != (void *)-1 && two != (void *)-1, "shmat: %s", strerror(errno));
    object_fill(one, 4 * PAGE, 1);
    object_ready_and_wait();
    SABOTAGE(one[5]++);
    CHECK_FILLED(two, 4 * PAGE, 1, "the segment");
    one[9] ^= 1;
    CHECK(one[9] == two[9], "the two attachments are not the same memory");
    object_pass();
}
