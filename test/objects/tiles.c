// AMX tiles. argv[2]: `permission`: it has asked for them, and may use them afterwards, also in a thread that never did;
// `used`: it has used them before, and they are empty; `busy`: a thread uses them now and then; `held`: they hold something
// all the time.
#include <stdatomic.h>

#include "support/object.h"

enum { ARCH_GET_XCOMP_PERM = 0x1022, ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18, ROWS = 16, ROW = 64 };

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static uint8_t in[ROWS][ROW], out[ROWS][ROW];

static void load(void) {
    struct tile_config config = {.palette = 1, .row_bytes = {ROW}, .rows = {ROWS}};
    for (int i = 0; i < ROWS * ROW; i++) {
        in[i / ROW][i % ROW] = (uint8_t)(i * 7);
    }
    __asm__ volatile("ldtilecfg %0\n tileloadd (%1, %2, 1), %%tmm0" ::"m"(config), "r"(in), "r"((long)ROW) : "memory");
}

static void check(const char *when) {
    memset(out, 0, sizeof out);
    __asm__ volatile("tilestored %%tmm0, (%0, %1, 1)\n tilerelease" ::"r"(out), "r"((long)ROW) : "memory");
    CHECK(memcmp(in, out, sizeof in) == 0, "%s: the tile holds something else", when);
}

static void *work(void *when) {
    load();
    check(when);
    return NULL;
}

static atomic_bool stop;

static void *compute(void *unused) {
    (void)unused;
    while (!stop) {
        load();
        usleep(1000);
        check("busy");
        usleep(5000);
    }
    return NULL;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "permission";
    uint64_t before = 0, after = 0;
    MUST((int)syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA));
    MUST((int)syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &before));
    if (strcmp(kind, "used") == 0) {
        work("before");
    }
    pthread_t worker;
    bool is_busy = strcmp(kind, "busy") == 0;
    CHECK(!is_busy || pthread_create(&worker, NULL, compute, NULL) == 0, "no thread");
    if (strcmp(kind, "held") == 0) {
        load();
    }
    object_ready_and_wait();
    stop = true;
    if (is_busy) {
        pthread_join(worker, NULL);
    }
    if (strcmp(kind, "held") == 0) {
        check("held");
    }
    MUST((int)syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &after));
    SABOTAGE(after ^= 1);
    CHECK(before == after, "permissions were %lx, are %lx", (unsigned long)before, (unsigned long)after);
    work("after");
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, work, "in a thread") == 0, "no thread");
    pthread_join(thread, NULL);
    object_pass();
}
