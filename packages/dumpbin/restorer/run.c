/* The interpreter: runs a program of system calls, one task after the other until each leaves into the process it has
 * become. A failed step is told by name; then every task of the tree ends, so that nothing half restored is left. */
#include "restorer.h"
#include "text.h"

static inline void *memcpy_(void *to, const void *from, size_t length) {
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return start;
}

void *memcpy(void *to, const void *from, size_t length) { return memcpy_(to, from, length); }

void *memset(void *to, int byte, size_t length) {
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(byte) : "memory");
    return start;
}

static struct plan_shared *shared_of(const struct plan_header *h) {
    return (struct plan_shared *)(h->region + h->region_length - PLAN_PAGE);
}

static void wake_all(uint32_t *word) { sc(__NR_futex, (uint64_t)word, 1 /* FUTEX_WAKE */, 0x7fffffff, 0, 0); }

/* Ends the whole restore: everybody who waits at a barrier sees `failed` and ends too. */
static __attribute__((noreturn)) void give_up(const struct plan_header *h) {
    struct plan_shared *s = shared_of(h);
    __atomic_store_n(&s->failed, 1, __ATOMIC_SEQ_CST);
    for (int i = -1; i < PLAN_COUNTERS; i++) {
        uint32_t *counter = i < 0 ? &s->gone : &s->counters[i];
        __atomic_fetch_add(counter, PLAN_FAILED, __ATOMIC_SEQ_CST);
        wake_all(counter);
    }
    sc(__NR_exit_group, STATUS_STEP_FAILED, 0, 0, 0, 0);
    __builtin_unreachable();
}

/* "ferry: restore of process 12 failed at step 40 (map heap): mmap(0x.., ..) gave -12" */
static __attribute__((noreturn)) void step_failed(const struct plan_header *h, uint64_t index, const uint64_t args[6],
                                                  long result) {
    const struct plan_op *op = (const struct plan_op *)(h->region + h->ops_offset) + index;
    struct text t = {.length = 0};
    text_put(&t, "ferry: restore of process ");
    text_number(&t, h->pid, 10);
    text_put(&t, " failed at step ");
    text_number(&t, index, 10);
    text_put(&t, " (");
    text_put(&t, (const char *)(h->region + h->data_offset + op->name));
    text_put(&t, "): ");
    if (op->kind == PLAN_SYSCALL) {
        text_put(&t, "system call ");
        text_number(&t, op->nr, 10);
    } else {
        text_put(&t, "operation ");
        text_number(&t, op->kind, 10);
    }
    text_put(&t, "(");
    for (int i = 0; i < 6; i++) {
        if (i) text_put(&t, ", ");
        text_number(&t, args[i], 16);
    }
    text_put(&t, ") gave ");
    text_signed(&t, result);
    if (op->expect == EXPECT_VALUE) {
        text_put(&t, ", expected ");
        text_signed(&t, (int64_t)op->value);
    }
    text_put(&t, "\n");
    text_write(&t, (int)h->service_base + SERVICE_ERROR);
    give_up(h);
}

static void barrier(const struct plan_header *h, const uint64_t args[6]) {
    struct plan_shared *s = shared_of(h);
    uint64_t index = args[0], total = args[1];
    int only_waits = args[2] != 0, is_go = args[3] != 0;
    uint32_t *counter = is_go ? &s->gone : &s->counters[index % PLAN_COUNTERS];
    if (is_go) __atomic_store_n(&s->goes, (uint32_t)total, __ATOMIC_SEQ_CST);
    uint32_t now = __atomic_add_fetch(counter, only_waits ? 0 : 1, __ATOMIC_SEQ_CST);
    if (!only_waits && now == total) wake_all(counter);
    while (now < total) {
        sc(__NR_futex, (uint64_t)counter, 0 /* FUTEX_WAIT */, now, 0, 0);
        now = __atomic_load_n(counter, __ATOMIC_SEQ_CST);
    }
    if (__atomic_load_n(&s->failed, __ATOMIC_SEQ_CST)) sc(__NR_exit_group, STATUS_OTHER_FAILED, 0, 0, 0, 0);
}

/* pread(2) until `length` bytes are there; what it gave when they cannot be had. */
long read_fully(uint64_t fd, uint64_t address, uint64_t length, uint64_t offset) {
    uint64_t done = 0;
    while (done < length) {
        uint64_t step = length - done < (1ull << 30) ? length - done : (1ull << 30);
        long n = sc(__NR_pread64, fd, address + done, step, offset + done, 0);
        if (n == -E_INTR) continue;
        if (n <= 0) return n == 0 ? -61 /* ENODATA */ : n;
        done += (uint64_t)n;
    }
    return (long)length;
}

long clone_numbered(const uint32_t *pids, uint64_t count, uint64_t flags, uint64_t exit_signal) {
    struct clone_arguments a = {.flags = flags, .exit_signal = exit_signal};
    if (count) {
        a.set_tid = (uint64_t)pids;
        a.set_tid_size = count;
    }
    return sc(__NR_clone3, (uint64_t)&a, sizeof a, 0, 0, 0);
}

long clone_process(uint64_t pid, uint64_t flags, uint64_t exit_signal) {
    uint32_t number = (uint32_t)pid;
    return clone_numbered(&number, pid ? 1 : 0, flags, exit_signal);
}

/* A thread of this process that runs the program from `target` on a stack and slots of its own; under any number
 * where none is given. */
static long clone_thread(const uint64_t args[6], const struct plan_header *h, uint64_t target) {
    uint32_t set_tid = (uint32_t)args[0];
    uint64_t stack_top = args[1], slots = args[2];
    struct clone_arguments a = {
        .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
        .stack = stack_top - 8192,
        .stack_size = 8192,
        .set_tid = args[4] ? args[3] : args[0] ? (uint64_t)&set_tid : 0,
        .set_tid_size = args[4] ? args[4] : args[0] != 0,
    };
    long r;
    register uint64_t rbx __asm__("rbx") = (uint64_t)h;
    register uint64_t r12 __asm__("r12") = target;
    register uint64_t r13 __asm__("r13") = slots;
    __asm__ volatile("syscall\n"
                     "test %%rax, %%rax\n"
                     "jnz 1f\n"
                     "xor %%ebp, %%ebp\n"
                     "mov %%rbx, %%rdi\n"
                     "mov %%r12, %%rsi\n"
                     "mov %%r13, %%rdx\n"
                     "call run_program\n"
                     "ud2\n"
                     "1:\n"
                     : "=a"(r)
                     : "a"(__NR_clone3), "D"(&a), "S"(sizeof a), "r"(rbx), "r"(r12), "r"(r13)
                     : "rcx", "r11", "memory");
    return r;
}

/* Becomes a zombie that wait4(2) reports with `status`. */
static __attribute__((noreturn)) void die_with(uint64_t status) {
    uint64_t signal = status & 0x7f;
    if (signal != 0) {
        uint64_t action[4] = {0, 0, 0, 0}, none = 0, no_core[2] = {0, 0};
        if (!(status & 0x80)) sc(__NR_setrlimit, 4 /* RLIMIT_CORE */, (uint64_t)no_core, 0, 0, 0);
        sc(__NR_rt_sigaction, signal, (uint64_t)action, 0, 8, 0);
        sc(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, (uint64_t)&none, 0, 8, 0);
        sc(__NR_kill, (uint64_t)sc(__NR_getpid, 0, 0, 0, 0, 0), signal, 0, 0, 0);
    }
    sc(__NR_exit_group, (status >> 8) & 0xff, 0, 0, 0, 0);
    __builtin_unreachable();
}

/* Leaves for good: makes one system call with an instruction of the restored process, which then returns through its
 * own rt_sigreturn trampoline into the saved registers. The call unmaps the region (leader), or counts this thread as
 * gone (others): either way no instruction of the region runs after it. The frame stands where the kernel itself would
 * put one: below the red zone of the stack, or on the alternate stack. */
static __attribute__((noreturn)) void leave(const uint64_t a[6], uint64_t value) {
    __asm__ volatile("mov %[frame], %%rsp\n"
                     "jmp *%[gadget]\n"
                     :
                     : [frame] "r"(a[0]), [gadget] "r"(a[1]), "a"(a[3]), "D"(a[4]), "S"(a[5]), "d"(value)
                     : "memory");
    __builtin_unreachable();
}

static __attribute__((noreturn)) void return_here(uint64_t frame) {
    __asm__ volatile("lea 8(%0), %%rsp\n"
                     "mov $15, %%eax\n"
                     "syscall\n"
                     :
                     : "r"(frame)
                     : "memory");
    __builtin_unreachable();
}

/* Replaces this process's program by the one of another dump file, which has the same region and blob. */
static long chain(const struct plan_header *h, uint64_t fd, uint64_t offset) {
    struct plan_header next;
    uint64_t at = offset + PLAN_PAGE + h->blob_length;
    long n = read_fully(fd, (uint64_t)&next, sizeof next, at);
    if (n < 0) return n;
    if (next.magic != PLAN_MAGIC || next.region != h->region || next.region_length != h->region_length ||
        next.blob_length != h->blob_length || next.identity != h->identity)
        return -8; /* ENOEXEC */
    return read_fully(fd, h->region + h->blob_length, next.image_length - h->blob_length, at);
}

static long advise(const uint64_t *ranges, uint64_t count, uint64_t advice) {
    for (uint64_t i = 0; i < count; i++) {
        long result = sc(__NR_madvise, ranges[2 * i], ranges[2 * i + 1], advice, 0, 0);
        if (result < 0) return result;
    }
    return 0;
}

static int unexpected(const struct plan_op *op, long result, uint64_t value) {
    switch (op->expect) {
    case EXPECT_ANY: return 0;
    case EXPECT_VALUE: return (uint64_t)result != value;
    case EXPECT_OR_ERRNO: return result < 0 && result >= -4095 && (uint64_t)-result != value;
    default: return result < 0 && result >= -4095;
    }
}

static void store(uint64_t address, uint64_t value, uint64_t width) {
    if (width == 4)
        *(volatile uint32_t *)address = (uint32_t)value;
    else
        *(volatile uint64_t *)address = value;
}

__attribute__((noreturn, used)) void run_program(const struct plan_header *h, uint64_t index, uint64_t *slots) {
    for (;; index++) {
        const struct plan_op *op = (const struct plan_op *)(h->region + h->ops_offset) + index;
        uint64_t a[6], value = op->value;
        long result = 0;
        if (index >= h->op_count) give_up(h);
        for (int i = 0; i < 6; i++) a[i] = op->slots_mask & (1u << i) ? slots[op->args[i]] : op->args[i];
        if (op->slots_mask & 64) value = slots[value];
        switch (op->kind) {
        case PLAN_SYSCALL:
            do result = sc6(op->nr, (long)a[0], (long)a[1], (long)a[2], (long)a[3], (long)a[4], (long)a[5]);
            while (result == -E_INTR && op->expect == EXPECT_SUCCESS);
            break;
        case PLAN_FORK:
            result = a[4] ? clone_numbered((const uint32_t *)a[3], a[4], a[1], a[2]) : clone_process(a[0], a[1], a[2]);
            if (result == 0) {
                index = op->target - 1ull;
                continue;
            }
            break;
        case PLAN_THREAD: result = clone_thread(a, h, op->target); break;
        case PLAN_CHAIN:
            result = chain(h, a[0], a[1]);
            if (result < 0) break;
            index = ~0ull;
            continue;
        case PLAN_BARRIER: barrier(h, a); break;
        case PLAN_READ: result = read_fully(a[0], a[1], a[2], a[3]); break;
        case PLAN_STORE: store(a[0], a[1], a[2]); break;
        case PLAN_JUMP:
            if (a[0] == a[1]) index = op->target - 1ull;
            continue;
        case PLAN_LEAVE: leave(a, value);
        case PLAN_RETURN: return_here(a[0]);
        case PLAN_EXIT: sc(__NR_exit_group, a[0], 0, 0, 0, 0); break;
        case PLAN_RESUMED:
            __atomic_store_n(&shared_of(h)->resumed, 1, __ATOMIC_SEQ_CST);
            wake_all(&shared_of(h)->resumed);
            break;
        case PLAN_MKDEATH: die_with(a[0]);
        case PLAN_LOAD: result = a[1] == 4 ? (long)*(volatile uint32_t *)a[0] : *(volatile long *)a[0]; break;
        case PLAN_CLOCKS: result = set_clocks((const struct plan_clocks *)a[0]); break;
        case PLAN_WRITE_PROC: result = write_proc((long)a[0], (const char *)a[1], a[2], a[3]); break;
        case PLAN_ENTER: enter_namespaces(h); break;
        case PLAN_ADVISE: result = advise((const uint64_t *)a[0], a[1], a[2]); break;
        default: result = -38; /* ENOSYS */
        }
        if (unexpected(op, result, value)) step_failed(h, index, a, result);
        if (op->result) slots[op->result - 1] = (uint64_t)result;
    }
}
