// What Ferry may refuse by name, and must then leave untouched. argv[2]: sem-undo-shared,
// packet-ring, sealed, shared-memory, minor-faults, compat, segments, dispatch.
#include <asm/ldt.h>
#include <elf.h>
#include <linux/if_ether.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sem.h>

#include "support/socket.h"

static int lower(void *set) {
    struct sembuf down = {.sem_op = -2, .sem_flg = SEM_UNDO};
    MUST(semop(*(int *)set, &down, 1));
    object_wait();
    _exit(0);
}

/// Two processes with one list of what is to be undone: it is when the last of them ends.
static void sem_undo_shared(void) {
    static char stack[65536];
    int id = MUST(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
    MUST(semctl(id, 0, SETVAL, 5));
    pid_t child = MUST(clone(lower, stack + sizeof stack, CLONE_SYSVSEM | SIGCHLD, &id));
    while (semctl(id, 0, GETVAL) == 5) {
        object_sleep_ms(1);
    }
    object_ready_and_wait();
    object_join(child);
    SABOTAGE(semctl(id, 0, SETVAL, 4));
    int after = semctl(id, 0, GETVAL);
    semctl(id, 0, IPC_RMID);
    CHECK_EQUAL(after, 3, "the value while one of them still runs");
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
    MUST(bind(fd, (struct sockaddr *)&loopback, sizeof loopback));
    union address address;
    bound_socket(AF_INET, SOCK_DGRAM, &address);
    int sender = connected_socket(&address, SOCK_DGRAM);
    send_filled(sender, 10, 1);
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poller, 1, 1000) == 1, "nothing arrives");
    object_ready_and_wait();
    SABOTAGE(ring = object_map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK((ring->tp_status & TP_STATUS_USER) != 0, "there is nothing in the ring");
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

/// A 32-bit program: `for (;;) pause();`.
static void compat(void) {
    static const unsigned char code[] = {0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7};
    const Elf32_Addr at = 0x10000;
    struct {
        Elf32_Ehdr head;
        Elf32_Phdr load;
        unsigned char code[sizeof code];
    } program = {
        .head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                 .e_type = ET_EXEC,
                 .e_machine = EM_386,
                 .e_version = EV_CURRENT,
                 .e_entry = at + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
                 .e_phoff = sizeof(Elf32_Ehdr),
                 .e_ehsize = sizeof(Elf32_Ehdr),
                 .e_phentsize = sizeof(Elf32_Phdr),
                 .e_phnum = 1},
        .load = {.p_type = PT_LOAD, .p_vaddr = at, .p_memsz = PAGE, .p_filesz = PAGE, .p_flags = 5}};
    memcpy(program.code, code, sizeof code);
    char path[PATH_MAX];
    int fd = MUST(open(object_path(path, "program"), O_WRONLY | O_CREAT | O_CLOEXEC, 0755));
    CHECK(write(fd, &program, sizeof program) == sizeof program, "write: %s", strerror(errno));
    MUST(ftruncate(fd, PAGE));
    close(fd);
    int started[2], status = 0;
    char byte;
    MUST(pipe2(started, O_CLOEXEC));
    pid_t child = MUST(fork());
    if (child == 0) {
        execl(path, path, NULL);
        dprintf(started[1], "x");
        _exit(1);
    }
    close(started[1]);
    if (read(started[0], &byte, 1) != 0) {
        object_put_file("result", "SKIP no 32-bit programs\n");
        exit(0);
    }
    close(started[0]);
    object_ready_and_wait();
    CHECK(waitpid(child, &status, WNOHANG) == 0, "it has ended: 0x%x", status);
    SABOTAGE(kill(child, SIGKILL));
    kill(child, SIGTERM);
    CHECK(waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGTERM, "status 0x%x", status);
}

/// A segment of its own.
static void segments(void) {
    struct user_desc segment = {.entry_number = 3, .base_addr = 0x1000, .limit = 7, .seg_32bit = 1};
    char was[64], is[64];
    if (syscall(SYS_modify_ldt, 0x11, &segment, sizeof segment) != 0) {
        object_put_file("result", "SKIP no modify_ldt(2)\n");
        exit(0);
    }
    long length = MUST(syscall(SYS_modify_ldt, 0, was, sizeof was));
    object_ready_and_wait();
    SABOTAGE(segment.limit = 8, MUST(syscall(SYS_modify_ldt, 0x11, &segment, sizeof segment)));
    CHECK_EQUAL(syscall(SYS_modify_ldt, 0, is, sizeof is), length, "the table's length");
    CHECK(memcmp(is, was, length) == 0, "the table differs");
}

/// System calls that are sent to the program itself while a byte says so.
static volatile char selector = PR_SYS_DISPATCH_OFF;
static volatile int dispatched;

static void on_dispatch(int signal) {
    (void)signal;
    selector = PR_SYS_DISPATCH_OFF;
    dispatched++;
}

static void dispatch(void) {
    signal(SIGSYS, on_dispatch);
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector) != 0) {
        object_put_file("result", "SKIP no PR_SET_SYSCALL_USER_DISPATCH\n");
        exit(0);
    }
    object_ready_and_wait();
    SABOTAGE(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0));
    selector = PR_SYS_DISPATCH_ON;
    syscall(SYS_getpid);
    selector = PR_SYS_DISPATCH_OFF;
    CHECK_EQUAL(dispatched, 1, "intercepted calls");
}

/// No program may be executed any more.
static void restrict_itself(void) {
    struct landlock_ruleset_attr execute = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &execute, sizeof execute, 0);
    if (rules < 0) {
        object_put_file("result", "SKIP no Landlock\n");
        exit(0);
    }
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(syscall(SYS_landlock_restrict_self, rules, 0));
    close(rules);
}

static void check_restricted(void) {
    int status = 0;
    pid_t child = MUST(fork());
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(errno == EACCES ? 7 : 1);
    }
    SABOTAGE(object_fail("broken on purpose"));
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7, "status 0x%x", status);
}

static void landlock(void) {
    restrict_itself();
    object_ready_and_wait();
    check_restricted();
}

/// The same, where a filter ends the process at the next call of that kind.
static void landlock_seccomp(void) {
    restrict_itself();
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_landlock_restrict_self, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {COUNT_OF(filter), filter};
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    object_ready_and_wait();
    check_restricted();
}

int main(int argc, char **argv) {
    static const struct object_kind kinds[] = {{"sem-undo-shared", sem_undo_shared},
                                               {"packet-ring", packet_ring},
                                               {"sealed", sealed},
                                               {"shared-memory", shared_memory},
                                               {"minor-faults", minor_faults},
                                               {"compat", compat},
                                               {"landlock", landlock},
                                               {"landlock-seccomp", landlock_seccomp},
                                               {"segments", segments},
                                               {"dispatch", dispatch}};
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
