// Alternate signal stacks, different for two threads: set and unused; and one in use, with a
// handler waiting on it while the dump happens.
#include "support/object.h"

enum { SIZE = 64 * 1024 };

static pthread_barrier_t set_up, checked;
static volatile sig_atomic_t went_through;
static bool waits_in_handler;

static stack_t install(uint64_t seed) {
    stack_t stack = {.ss_sp = malloc(SIZE), .ss_size = SIZE};
    CHECK(stack.ss_sp != NULL, "malloc");
    object_fill(stack.ss_sp, 1000, seed);
    MUST(sigaltstack(&stack, NULL));
    return stack;
}

static void check_stack(stack_t want, int flags, uint64_t seed) {
    stack_t now;
    MUST(sigaltstack(NULL, &now));
    CHECK(now.ss_sp == want.ss_sp, "the stack is at %p, was %p", now.ss_sp, want.ss_sp);
    CHECK_EQUAL(now.ss_size, want.ss_size, "size");
    CHECK_EQUAL(now.ss_flags, flags, "flags");
    CHECK_FILLED(want.ss_sp, 1000, seed, "the far end of the stack");
}

static stack_t main_stack;

static void handler(int number) {
    char here[3000];
    (void)number;
    CHECK(here > (char *)main_stack.ss_sp && here < (char *)main_stack.ss_sp + SIZE,
          "the handler does not run on the alternate stack");
    object_fill(here, sizeof here, 77);
    if (waits_in_handler) {
        object_ready_and_wait();
        SABOTAGE(here[2000] ^= 1);
        check_stack(main_stack, SS_ONSTACK, 1);
    }
    CHECK_FILLED(here, sizeof here, 77, "the handler's frame");
    went_through = went_through + 1;
}

static void *thread(void *argument) {
    stack_t own = install(2);
    pthread_barrier_wait(&set_up);
    pthread_barrier_wait(&checked);
    check_stack(own, 0, 2);
    return argument;
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    waits_in_handler = argc > 2 && strcmp(argv[2], "in-use") == 0;
    pthread_t other;
    MUST_BE_ZERO(pthread_barrier_init(&set_up, NULL, 2));
    MUST_BE_ZERO(pthread_barrier_init(&checked, NULL, 2));
    MUST_BE_ZERO(pthread_create(&other, NULL, thread, NULL));
    pthread_barrier_wait(&set_up);
    main_stack = install(1);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    MUST(sigaction(SIGUSR2, &action, NULL));
    MUST(waits_in_handler ? raise(SIGUSR2) : 0);
    if (!waits_in_handler) {
        object_ready_and_wait();
        SABOTAGE(stack_t none = {.ss_flags = SS_DISABLE}; MUST(sigaltstack(&none, NULL)));
        MUST(raise(SIGUSR2));
    }
    CHECK_EQUAL(went_through, 1, "times the handler ran to its end");
    check_stack(main_stack, 0, 1);
    pthread_barrier_wait(&checked);
    MUST_BE_ZERO(pthread_join(other, NULL));
    object_pass();
}
