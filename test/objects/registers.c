// Values that live nowhere but in registers: a loop that neither touches them nor stores them runs
// across the dump. argv[2] chooses the kind: general, sse, avx, avx512, x87.
#include <cpuid.h>

#include "support/object.h"

static volatile int stop;
static uint8_t input[64 * 32] __attribute__((aligned(64)));
static uint8_t output[64 * 32] __attribute__((aligned(64)));

static void on_signal(int signal_number) {
    (void)signal_number;
    stop = 1;
}

// The loop waits for the signal handler to set `stop`; it changes the flags only.
#define SPIN "1: pause\n cmpl $0, %[stop]\n je 1b\n"

static void spin_general(void) {
    __asm__ volatile("lea %[in], %%rax\n"
                     "mov 0(%%rax), %%rbx\n mov 8(%%rax), %%rcx\n mov 16(%%rax), %%rdx\n"
                     "mov 24(%%rax), %%rsi\n mov 32(%%rax), %%rdi\n mov 40(%%rax), %%r8\n"
                     "mov 48(%%rax), %%r9\n mov 56(%%rax), %%r10\n mov 64(%%rax), %%r11\n"
                     "mov 72(%%rax), %%r12\n mov 80(%%rax), %%r13\n mov 88(%%rax), %%r14\n"
                     "mov 96(%%rax), %%r15\n mov 104(%%rax), %%rax\n" SPIN
                     "mov %%rax, 104+%[out]\n lea %[out], %%rax\n"
                     "mov %%rbx, 0(%%rax)\n mov %%rcx, 8(%%rax)\n mov %%rdx, 16(%%rax)\n"
                     "mov %%rsi, 24(%%rax)\n mov %%rdi, 32(%%rax)\n mov %%r8, 40(%%rax)\n"
                     "mov %%r9, 48(%%rax)\n mov %%r10, 56(%%rax)\n mov %%r11, 64(%%rax)\n"
                     "mov %%r12, 72(%%rax)\n mov %%r13, 80(%%rax)\n mov %%r14, 88(%%rax)\n"
                     "mov %%r15, 96(%%rax)\n"
                     : [out] "=m"(output)
                     : [in] "m"(input), [stop] "m"(stop)
                     : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
                       "r13", "r14", "r15", "cc", "memory");
}

#define EACH16(m)                                                                                  \
    m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define HIGH16(m)                                                                                  \
    m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)
#define LOAD_XMM(n) "movdqu 64*" #n "+%[in], %%xmm" #n "\n"
#define STORE_XMM(n) "movdqu %%xmm" #n ", 64*" #n "+%[out]\n"
#define LOAD_YMM(n) "vmovdqu 64*" #n "+%[in], %%ymm" #n "\n"
#define STORE_YMM(n) "vmovdqu %%ymm" #n ", 64*" #n "+%[out]\n"
#define LOAD_ZMM(n) "vmovdqu64 64*" #n "+%[in], %%zmm" #n "\n"
#define STORE_ZMM(n) "vmovdqu64 %%zmm" #n ", 64*" #n "+%[out]\n"

static void spin_sse(void) {
    __asm__ volatile(EACH16(LOAD_XMM) SPIN EACH16(STORE_XMM)
                     : [out] "=m"(output)
                     : [in] "m"(input), [stop] "m"(stop)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc",
                       "memory");
}

static void spin_avx(void) {
    __asm__ volatile(EACH16(LOAD_YMM) SPIN EACH16(STORE_YMM) "vzeroupper\n"
                     : [out] "=m"(output)
                     : [in] "m"(input), [stop] "m"(stop)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc",
                       "memory");
}

static uint64_t masks_in[7] = {0x1122334455667788, 2, 3, 4, 5, 6, 0x8877665544332211}, masks_out[7];
#define LOAD_MASK(n) "kmovq 8*" #n "+%[in], %%k" #n "\n"
#define STORE_MASK(n) "kmovq %%k" #n ", 8*" #n "+%[out]\n"
#define EACH_MASK(m) m(1) m(2) m(3) m(4) m(5) m(6)

static void spin_avx512(void) {
    __asm__ volatile(EACH_MASK(LOAD_MASK)::[in] "m"(masks_in));
    __asm__ volatile(EACH16(LOAD_ZMM) HIGH16(LOAD_ZMM) SPIN EACH16(STORE_ZMM) HIGH16(STORE_ZMM)
                     "vzeroupper\n"
                     : [out] "=m"(output)
                     : [in] "m"(input), [stop] "m"(stop)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc",
                       "memory");
    __asm__ volatile(EACH_MASK(STORE_MASK) : [out] "=m"(masks_out)::"memory");
    CHECK(memcmp(masks_in + 1, masks_out + 1, 48) == 0, "mask registers differ");
}

static void spin_x87(void) {
    const uint16_t control_in = 0x0a7f; // 53-bit precision, round up, all exceptions masked
    const uint32_t mxcsr_in = 0x5f80;   // round up
    uint16_t control_out = 0;
    uint32_t mxcsr_out = 0;
    long double in[3] = {3.14159265358979323846L, -1.0L / 3.0L, 1e-4000L}, out[3] = {0};
    __asm__ volatile("fldt 0+%[in]\n fldt 16+%[in]\n fldt 32+%[in]\n"
                     "fldcw %[control]\n ldmxcsr %[mxcsr]\n" SPIN
                     "fnstcw %[control_out]\n stmxcsr %[mxcsr_out]\n"
                     "fstpt 32+%[out]\n fstpt 16+%[out]\n fstpt 0+%[out]\n"
                     : [out] "=m"(out), [control_out] "=m"(control_out), [mxcsr_out] "=m"(mxcsr_out)
                     : [in] "m"(in), [control] "m"(control_in), [mxcsr] "m"(mxcsr_in),
                       [stop] "m"(stop)
                     : "cc", "memory");
    uint16_t usual = 0x037f;
    uint32_t usual_mxcsr = 0x1f80;
    __asm__ volatile("fldcw %0\n ldmxcsr %1\n" ::"m"(usual), "m"(usual_mxcsr));
    SABOTAGE(control_out ^= 1);
    CHECK_EQUAL(control_out, control_in, "x87 control word");
    CHECK_EQUAL(mxcsr_out & 0xffc0, mxcsr_in, "mxcsr");
    for (int i = 0; i < 3; i++) {
        CHECK(memcmp(&in[i], &out[i], 10) == 0, "st(%d) differs", i);
    }
}

static bool has_avx512(void) {
    unsigned a, b = 0, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX512F) && (b & bit_AVX512BW);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "general";
    size_t count = 1, width = 14 * 8; // vectors of `width` bytes at every 64th byte
    void (*spin)(void) = spin_general;
    if (strcmp(kind, "sse") == 0) {
        spin = spin_sse, count = 16, width = 16;
    } else if (strcmp(kind, "avx") == 0 && __builtin_cpu_supports("avx")) {
        spin = spin_avx, count = 16, width = 32;
    } else if (strcmp(kind, "avx512") == 0 && has_avx512()) {
        spin = spin_avx512, count = 32, width = 64;
    } else if (strcmp(kind, "x87") == 0) {
        spin = spin_x87, count = 0;
    } else if (strcmp(kind, "general") != 0) {
        object_put_file("result", "SKIP this CPU lacks the registers\n");
        exit(0);
    }
    object_fill(input, sizeof input, 42);
    struct sigaction action = {.sa_handler = on_signal};
    MUST(sigaction(SIGUSR1, &action, NULL));
    object_ready();
    sigset_t none;
    sigemptyset(&none);
    MUST(sigprocmask(SIG_SETMASK, &none, NULL));
    spin();
    SABOTAGE(output[64 * (count > 0 ? count - 1 : 0)] ^= 1);
    for (size_t i = 0; i < count; i++) {
        CHECK(memcmp(input + 64 * i, output + 64 * i, width) == 0, "%s register %zu differs", kind,
              i);
    }
    object_pass();
}
