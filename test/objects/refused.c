// What Ferry may refuse by name, and must then leave untouched. argv[2]: sem-undo, packet-ring,
// sealed, shared-memory, minor-faults.
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/sem.h>

#include "support/socket.h"

/// A semaphore that goes back to its value when the process that lowered it ends.
static void sem_undo(void) {
    int id = MUST(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
    struct sembuf down = {.sem_op = -2, .sem_flg = SEM_UNDO};
    MUST(semctl(id, 0, SETVAL, 5));
    pid_t child = MUST(fork());
    if (child == 0) {
        MUST(semop(id, &down, 1));
        object_wait();
        _exit(0);
    }
    while (semctl(id, 0, GETVAL) == 5) {
        object_sleep_ms(1);
    }
    object_ready_and_wait();
    int lowered = semctl(id, 0, GETVAL);
    SABOTAGE(semctl(id, 0, SETVAL, 4));
    object_join(child);
    int after = semctl(id, 0, GETVAL);
    semctl(id, 0, IPC_RMID);
    CHECK(lowered == 3 && after == 5, "the value was %d and is %d", lowered, after);
}

/// Memory of a packet socket.
static void packet_ring(void) {
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct tpacket_req request = {
        .tp_block_size = PAGE, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
    if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) != 0) {
        object_put_file("result", "SKIP no packet rings\n");
        exit(0);
    }
    struct tpacket_hdr *ring = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct sockaddr_ll loopback = {.sll_family = AF_PACKET,
                                   .sll_protocol = htons(ETH_P_ALL),
                                   .sll_ifindex = (int)if_nametoindex("lo")};
    object_ready_and_wait();
    MUST(bind(fd, (struct sockaddr *)&loopback, sizeof loopback));
    union address address;
    bound_socket(AF_INET, SOCK_DGRAM, &address);
    int sender = connected_socket(&address, SOCK_DGRAM);
    SABOTAGE(ring = object_map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    send_filled(sender, 10, 1);
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poller, 1, 1000) == 1 && (ring->tp_status & TP_STATUS_USER) != 0,
          "nothing arrives in the ring");
}

/// A mapping that nothing may change any more.
static void sealed(void) {
    char *memory = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (syscall(462 /* mseal */, memory, PAGE, 0) != 0) {
        object_put_file("result", "SKIP no mseal\n");
        exit(0);
    }
    object_ready_and_wait();
    SABOTAGE(object_fail("sabotage"));
    CHECK(munmap(memory, PAGE) != 0 && errno == EPERM, "it can be unmapped");
}

static int borrower(void *word) {
    while (*(volatile int *)word == 0) {
        object_sleep_ms(1);
    }
    return *(int *)word == 1 ? 0 : 1;
}

/// A process that has its parent's memory, for longer than vfork(2) lets it.
static void shared_memory(void) {
    static char stack[65536];
    volatile int word = 0;
    int status = 0;
    pid_t child = MUST(clone(borrower, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)&word));
    object_ready_and_wait();
    word = 1;
    SABOTAGE(word = 2);
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child's status is 0x%x", status);
}

/// Memory whose pages are there, but are shown only when a userfaultfd says so.
static void minor_faults(void) {
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM};
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) < 0) {
        object_put_file("result", "SKIP userfaultfd(2) is not available\n");
        exit(0);
    }
    int fd = MUST(memfd_create("object", MFD_CLOEXEC));
    MUST(ftruncate(fd, 4 * PAGE));
    char *memory = object_map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct uffdio_register range = {.range = {(uintptr_t)memory, 4 * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_MINOR};
    MUST(ioctl(faults, UFFDIO_REGISTER, &range));
    object_ready_and_wait();
    SABOTAGE(MUST(ioctl(faults, UFFDIO_UNREGISTER, &range.range)));
    MUST(pwrite(fd, "content", 8, 0));
    CHECK_EQUAL(mincore(memory, PAGE, (unsigned char[1]){0}), 0, "mincore");
    struct uffdio_continue go_on = {.range = {(uintptr_t)memory, PAGE}};
    CHECK(ioctl(faults, UFFDIO_CONTINUE, &go_on) == 0, "UFFDIO_CONTINUE: %s", strerror(errno));
    CHECK(strcmp(memory, "content") == 0, "it says %s", memory);
}

int main(int argc, char **argv) {
    static const struct object_kind kinds[] = {{"sem-undo", sem_undo},
                                               {"packet-ring", packet_ring},
                                               {"sealed", sealed},
                                               {"shared-memory", shared_memory},
                                               {"minor-faults", minor_faults}};
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
