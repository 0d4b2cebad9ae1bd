/* Where a dump binary starts: reads its arguments, checks its files, makes the recorded PID where it does not have it,
 * and moves into the region from which the program runs. */
#include "restorer.h"
#include "text.h"

static uint64_t main_slots[SLOT_COUNT];
int report_fd = -1;

struct options {
    int info, verify_only, skip_pages, detach, new_pid_namespace, keep_namespaces;
    int folder_fd, control_fd, report_fd, fate_fd;
};
static struct options options = {.folder_fd = -1, .control_fd = -1, .report_fd = -1, .fate_fd = -1};

static const char usage[] =
    "A Ferry dump binary: executing it restores the process it was made of.\n"
    "\n"
    "  --info                what it holds\n"
    "  --verify              check every hash of every file of the dump, start nothing\n"
    "  --no-verify-pages     start without checking the page contents (headers, program and state always are)\n"
    "  --detach              print the root's PID and return once the tree runs\n"
    "  --new-pid-namespace   restore in a PID namespace of its own, where no PID can be taken\n"
    "  --keep-namespaces     restore in the namespaces this is started in, not in those that were dumped\n"
    "\n"
    "  --report-fd N         tell failures and the PID on descriptor N, not on standard error and output\n"
    "\n"
    "Without --detach it stays: signals it gets go to the restored process, and it exits with that one's status.\n";

static int same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

static int number_of(const char *s) {
    int n = 0;
    for (; *s >= '0' && *s <= '9' && n < 1000000; s++) n = n * 10 + (*s - '0');
    return *s ? -1 : n;
}

static __attribute__((noreturn)) void quit(int status) {
    sc(__NR_exit_group, (uint64_t)status, 0, 0, 0, 0);
    __builtin_unreachable();
}

static __attribute__((noreturn)) void fail(int status, const char *what, const char *detail, long result) {
    struct text t = {.length = 0};
    text_put(&t, "ferry: ");
    text_put(&t, what);
    text_put(&t, detail);
    if (result < 0) {
        text_put(&t, ": errno ");
        text_signed(&t, -result);
    }
    text_put(&t, "\n");
    text_write(&t, report_fd < 0 ? 2 : report_fd);
    quit(status);
}

static void parse(struct options *o, long argc, char **argv) {
    for (long i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (same(a, "--info")) o->info = 1;
        else if (same(a, "--verify")) o->verify_only = 1;
        else if (same(a, "--no-verify-pages")) o->skip_pages = 1;
        else if (same(a, "--detach")) o->detach = 1;
        else if (same(a, "--new-pid-namespace")) o->new_pid_namespace = 1;
        else if (same(a, "--keep-namespaces")) o->keep_namespaces = 1;
        else if (same(a, "--folder-fd") && i + 1 < argc) o->folder_fd = number_of(argv[++i]);
        else if (same(a, "--control-fd") && i + 1 < argc) o->control_fd = number_of(argv[++i]);
        else if (same(a, "--fate-fd") && i + 1 < argc) o->fate_fd = number_of(argv[++i]);
        else if (same(a, "--report-fd") && i + 1 < argc) report_fd = o->report_fd = number_of(argv[++i]);
        else {
            int help = same(a, "--help") || same(a, "-h");
            if (!help) fail(STATUS_USAGE, "unknown argument, see --help: ", a, 0);
            sc(__NR_write, 1, (uint64_t)usage, sizeof usage - 1, 0, 0);
            quit(0);
        }
    }
}

/* Opens the folder the dump file stands in; -1 when it has no name any more (a memfd). */
static int open_folder(void) {
    char path[4096];
    long n = sc(__NR_readlink, (uint64_t) "/proc/self/exe", (uint64_t)path, sizeof path - 1, 0, 0);
    if (n <= 0) return -1;
    while (n > 1 && path[n - 1] != '/') n--;
    path[n] = 0;
    return (int)sc(__NR_open, (uint64_t)path, 0x210000 /* O_PATH | O_DIRECTORY */, 0, 0, 0);
}

/* "1234.dump" */
static void dump_name(char *out, uint32_t pid) {
    struct text t = {.length = 0};
    text_number(&t, pid, 10);
    text_put(&t, ".dump");
    for (size_t i = 0; i < t.length; i++) out[i] = t.bytes[i];
    out[t.length] = 0;
}

/* Checks the root's file, then every other file of the dump. Starts nothing; ends the program on damage. */
static void verify_all(const struct plan_header *h, int self, int folder, int with_pages) {
    const struct plan_child *child = (const struct plan_child *)verify_file(self, "this file", h->header_hash, with_pages);
    for (uint64_t i = 0; i < h->child_count; i++) {
        char name[32];
        dump_name(name, child[i].pid);
        int fd = (int)sc(__NR_openat, (uint64_t)folder, (uint64_t)name, 0, 0, 0);
        if (fd < 0) fail(STATUS_DAMAGED, "a file of this dump is missing: ", name, fd);
        verify_file(fd, name, child[i].header_hash, with_pages);
        sc(__NR_close, (uint64_t)fd, 0, 0, 0, 0);
    }
}

static void service(const struct plan_header *h, int which, int from) {
    if (from < 0) return;
    long r = sc(__NR_dup2, (uint64_t)from, h->service_base + (uint32_t)which, 0, 0, 0);
    if (r < 0) fail(STATUS_STEP_FAILED, "not enough descriptors (raise RLIMIT_NOFILE) to restore", "", r);
}

/* The shared page exists before the first fork, so that a proxy sees how the restore ends. In a file it outlives the tree:
 * whoever has that file learns from it whether the tree ever ran, however it ended. */
static struct plan_shared *map_shared(const struct plan_header *h, int fd) {
    long r = sc6(__NR_mmap, (long)(h->region + h->region_length - PLAN_PAGE), (long)PLAN_PAGE, 3,
                 fd < 0 ? 0x100021 /* MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE */
                        : 0x100001 /* MAP_SHARED | MAP_FIXED_NOREPLACE */,
                 fd, 0);
    if (r < 0) fail(STATUS_STEP_FAILED, "the restorer's address range is taken", "", r);
    if (fd >= 0) sc(__NR_close, (uint64_t)fd, 0, 0, 0, 0);
    return (struct plan_shared *)r;
}

/* Moves into the region and runs the program there; never returns. */
static __attribute__((noreturn)) void enter_at(const struct plan_header *h, int file, uint64_t offset, uint64_t entry) {
    long r = sc6(__NR_mmap, (long)h->region, (long)(h->region_length - PLAN_PAGE), 7,
                 0x104022 /* MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE */, -1, 0);
    if (r < 0) fail(STATUS_STEP_FAILED, "the restorer's address range is taken", "", r);
    uint64_t blob = (uint64_t)(blob_end - blob_start);
    __builtin_memcpy((void *)h->region, blob_start, blob);
    r = read_fully((uint64_t)file, h->region + blob, h->image_length - blob, offset + PLAN_PAGE + blob);
    if (r < 0) fail(STATUS_DAMAGED, "the program cannot be read", "", r);
    uint64_t limit[2] = {0, 0};
    sc(__NR_prlimit64, 0, 7 /* RLIMIT_NOFILE */, 0, (uint64_t)limit, 0);
    limit[0] = limit[1];
    sc(__NR_prlimit64, 0, 7, (uint64_t)limit, 0, 0);
    uint64_t shift = h->region - (uint64_t)blob_start;
    const struct plan_header *moved = (const struct plan_header *)(h->region + blob);
    uint64_t slots = (uint64_t)main_slots + shift;
    __asm__ volatile("mov %[stack], %%rsp\n"
                     "xor %%ebp, %%ebp\n"
                     "call *%[run]\n"
                     "ud2\n"
                     :
                     : [stack] "r"((uint64_t)blob_end + shift - 64), "D"(moved), "S"(entry), "d"(slots),
                       [run] "r"((uint64_t)run_program + shift)
                     : "memory");
    __builtin_unreachable();
}

static void block_all_signals(void) {
    uint64_t all = ~0ull;
    sc(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, (uint64_t)&all, 0, 8, 0);
}

static __attribute__((noreturn)) void exit_like(int status) {
    int signal = status & 0x7f;
    if (signal == 0) quit((status >> 8) & 0xff);
    quit(128 + signal);
}

/* Lets go of everything that whoever started us may be waiting to see closed. */
static void drop_descriptors(void) {
    int null = (int)sc(__NR_open, (uint64_t) "/dev/null", 2 /* O_RDWR */, 0, 0, 0);
    for (uint64_t fd = 0; fd < 3; fd++) sc(__NR_dup2, (uint64_t)null, fd, 0, 0, 0);
    sc(__NR_close_range, 3, ~0u, 0, 0, 0);
}

/* What a stand-in does when the tree runs. */
enum standing { STAY, REPORT_AND_LEAVE, STAY_UNSEEN };

/* Stays as the restored process's stand-in: signals in, exit status out. Also what an init of a new PID namespace does. */
static __attribute__((noreturn)) void stand_in(int child, struct plan_shared *shared, enum standing standing,
                                               uint32_t told_pid) {
    int told = 0;
    for (;;) {
        uint64_t all = ~0ull, wait[2] = {0, 1000000};
        uint32_t info[32] = {0};
        if (!told && __atomic_load_n(&shared->resumed, __ATOMIC_SEQ_CST)) {
            told = 1;
            if (standing == STAY_UNSEEN) drop_descriptors();
            if (standing == REPORT_AND_LEAVE) {
                struct text t = {.length = 0};
                text_number(&t, told_pid, 10);
                text_put(&t, "\n");
                text_write(&t, report_fd < 0 ? 1 : report_fd);
                quit(0);
            }
        }
        if (told) wait[0] = 3600, wait[1] = 0;
        long signal = sc(__NR_rt_sigtimedwait, (uint64_t)&all, (uint64_t)info, (uint64_t)wait, 8, 0);
        if (signal > 0 && signal != SIGCHLD) sc(__NR_kill, (uint64_t)child, (uint64_t)signal, 0, 0, 0);
        for (;;) {
            int status = 0;
            long pid = sc(__NR_wait4, (uint64_t)-1, (uint64_t)&status, 1 /* WNOHANG */, 0, 0);
            if (pid <= 0) break;
            if (pid == child) exit_like(status);
        }
    }
}

/* Says who holds the PID that the dump needs. */
static __attribute__((noreturn)) void pid_taken(uint32_t pid) {
    struct text path = {.length = 0}, number = {.length = 0};
    char comm[64] = "?";
    text_put(&path, "/proc/");
    text_number(&path, pid, 10);
    text_put(&path, "/comm");
    path.bytes[path.length] = 0;
    int fd = (int)sc(__NR_open, (uint64_t)path.bytes, 0, 0, 0, 0);
    if (fd >= 0) {
        long n = sc(__NR_read, (uint64_t)fd, (uint64_t)comm, sizeof comm - 1, 0, 0);
        if (n > 0) comm[n - 1] = 0;
    }
    text_number(&number, pid, 10);
    text_put(&number, " is taken by ");
    text_put(&number, comm);
    text_put(&number, "; end that process, or restore with --new-pid-namespace");
    number.bytes[number.length] = 0;
    fail(STATUS_PID_TAKEN, "PID ", number.bytes, 0);
}

static void mount_proc(void) {
    sc(__NR_mount, 0, (uint64_t) "/", 0, 0x44000 /* MS_REC | MS_PRIVATE */, 0);
    long r = sc(__NR_mount, (uint64_t) "proc", (uint64_t) "/proc", (uint64_t) "proc", 0, 0);
    if (r < 0) fail(STATUS_STEP_FAILED, "cannot mount /proc in the new PID namespace", "", r);
}

/* The first child of `pid` as this PID namespace numbers it, or `pid` itself. */
static uint32_t first_child(long pid) {
    struct text path = {.length = 0};
    char list[64] = "";
    text_put(&path, "/proc/");
    text_number(&path, (uint64_t)pid, 10);
    text_put(&path, "/task/");
    text_number(&path, (uint64_t)pid, 10);
    text_put(&path, "/children");
    path.bytes[path.length] = 0;
    int fd = (int)sc(__NR_open, (uint64_t)path.bytes, 0, 0, 0, 0);
    if (fd >= 0) sc(__NR_read, (uint64_t)fd, (uint64_t)list, sizeof list - 1, 0, 0);
    uint32_t child = 0;
    for (int i = 0; list[i] >= '0' && list[i] <= '9'; i++) child = child * 10 + (uint32_t)(list[i] - '0');
    return child ? child : (uint32_t)pid;
}

static void wait_resumed(struct plan_shared *shared, long child) {
    while (!__atomic_load_n(&shared->resumed, __ATOMIC_SEQ_CST)) {
        int status = 0;
        uint64_t tick[2] = {0, 1000000};
        if (sc(__NR_wait4, (uint64_t)child, (uint64_t)&status, 1, 0, 0) == child) exit_like(status);
        sc(__NR_nanosleep, (uint64_t)tick, 0, 0, 0, 0);
    }
}

/* Returns in the root, in the namespaces of its own; whoever started it stays behind as its stand-in. */
void enter_namespaces(const struct plan_header *h) {
    struct plan_shared *shared = (struct plan_shared *)(h->region + h->region_length - PLAN_PAGE);
    long child = clone_into_namespaces(h, (const struct plan_namespaces *)h->namespaces, shared);
    if (child == -E_EXIST) pid_taken(h->pid);
    if (child < 0) fail(STATUS_STEP_FAILED, "cannot make the tree's namespaces (needs root)", "", child);
    if (child == 0) return;
    sc(__NR_close_range, h->service_base, ~0u, 0, 0, 0);
    stand_in((int)child, shared, options.detach ? REPORT_AND_LEAVE : STAY, (uint32_t)child);
}

/* Where the program begins: at the steps that make its namespaces, or behind them when there are none to be made. */
static uint64_t entry_of(const struct plan_header *h) {
    if (h->namespaces == 0) return 0;
    int given = h->pid == 1 && sc(__NR_getpid, 0, 0, 0, 0, 0) == 1;
    if (!options.keep_namespaces && !given) return 0;
    return ((const struct plan_namespaces *)(h->namespaces - h->region + (uint64_t)blob_start))->given_entry;
}

/* Returns in the process that has the recorded PID; whoever else there is stays behind as its stand-in. */
static void take_pid(const struct plan_header *h, const struct options *o, struct plan_shared *shared) {
    long me = sc(__NR_getpid, 0, 0, 0, 0, 0);
    if (o->new_pid_namespace) {
        long child = clone_process(0, CLONE_NEWPID | CLONE_NEWNS, SIGCHLD);
        if (child < 0) fail(STATUS_STEP_FAILED, "cannot make a PID namespace", "", child);
        if (child > 0) {
            wait_resumed(shared, child);
            stand_in((int)child, shared, o->detach ? REPORT_AND_LEAVE : STAY, h->pid == 1 ? (uint32_t)child : first_child(child));
        }
        mount_proc();
        me = 1;
    }
    if ((uint32_t)me == h->pid) return;
    long child = clone_process(h->pid, 0, SIGCHLD);
    if (child == -E_EXIST) pid_taken(h->pid);
    if (child < 0) fail(STATUS_STEP_FAILED, "cannot make a process with the recorded PID (needs root)", "", child);
    if (child > 0) {
        enum standing detached = o->new_pid_namespace ? STAY_UNSEEN : REPORT_AND_LEAVE;
        stand_in((int)child, shared, o->detach ? detached : STAY, h->pid);
    }
}

/* A loader has no program: it waits on its control descriptor for the name of one. The message is eight bytes: the
 * offset of a dump file in the program store, which is descriptor `folder_fd`. */
static __attribute__((noreturn)) void load(const struct options *o) {
    static struct plan_header h;
    uint64_t offset = 0;
    long n = sc(__NR_read, (uint64_t)o->control_fd, (uint64_t)&offset, 8, 0, 0);
    if (n != 8) quit(STATUS_OTHER_FAILED);
    uint64_t blob = (uint64_t)(blob_end - blob_start);
    n = read_fully((uint64_t)o->folder_fd, (uint64_t)&h, sizeof h, offset + PLAN_PAGE + blob);
    if (n < 0 || h.magic != PLAN_MAGIC || h.blob_length != blob) fail(STATUS_DAMAGED, "no program in the store", "", n);
    map_shared(&h, o->fate_fd);
    service(&h, SERVICE_ERROR, 2);
    service(&h, SERVICE_STDIN, 0);
    service(&h, SERVICE_STDOUT, 1);
    service(&h, SERVICE_STDERR, 2);
    service(&h, SERVICE_SELF, o->folder_fd);
    service(&h, SERVICE_FOLDER, o->folder_fd);
    service(&h, SERVICE_CONTROL, o->control_fd);
    enter_at(&h, o->folder_fd, offset, 0);
}

__attribute__((noreturn, used)) void start(uint64_t *stack) {
    const struct plan_header *h = (const struct plan_header *)blob_end;
    parse(&options, (long)stack[0], (char **)(stack + 1));
    block_all_signals();
    if (h->magic != PLAN_MAGIC || h->version != PLAN_VERSION) fail(STATUS_DAMAGED, "the plan header is damaged", "", 0);
    if (h->flags & PLAN_LOADER) load(&options);
    int self = (int)sc(__NR_open, (uint64_t) "/proc/self/exe", 0, 0, 0, 0);
    if (self < 0) fail(STATUS_STEP_FAILED, "cannot open /proc/self/exe (is /proc mounted?)", "", self);
    int folder = options.folder_fd >= 0 ? options.folder_fd : open_folder();
    verify_file(self, "this file", 0, 0);
    if (options.info) {
        sc(__NR_write, 1, h->info - h->region + (uint64_t)blob_start, h->info_length, 0, 0);
        quit(0);
    }
    if (!(h->flags & PLAN_ROOT)) {
        if (options.verify_only) {
            verify_file(self, "this file", 0, 1);
            quit(0);
        }
        fail(STATUS_USAGE, "this is not the root of its tree; see --info for the file to execute", "", 0);
    }
    verify_all(h, self, folder, options.verify_only || !options.skip_pages);
    if (options.verify_only) {
        static const char fine[] = "every hash matches\n";
        sc(__NR_write, 1, (uint64_t)fine, sizeof fine - 1, 0, 0);
        quit(0);
    }
    uint64_t entry = entry_of(h);
    if (h->namespaces == 0 || entry != 0) take_pid(h, &options, map_shared(h, -1));
    else map_shared(h, -1);
    service(h, SERVICE_ERROR, report_fd < 0 ? 2 : report_fd);
    service(h, SERVICE_STDIN, 0);
    service(h, SERVICE_STDOUT, 1);
    service(h, SERVICE_STDERR, 2);
    service(h, SERVICE_SELF, self);
    service(h, SERVICE_FOLDER, folder);
    service(h, SERVICE_CONTROL, options.control_fd);
    enter_at(h, self, 0, entry);
}

__asm__(".section .text.entry\n"
        ".globl _start\n"
        "_start:\n"
        "  mov %rsp, %rdi\n"
        "  xor %ebp, %ebp\n"
        "  and $-16, %rsp\n"
        "  call start\n"
        "  ud2\n"
        ".previous\n");
