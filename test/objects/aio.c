// Kernel AIO: a context keeps its number, the events that nobody has taken yet, and works on.
#include <linux/aio_abi.h>

#include "support/object.h"

static aio_context_t first, second;
static int file;
static char content[PAGE];

static void submit(aio_context_t context, uint64_t data, off_t offset) {
    struct iocb request = {
        .aio_data = data,
        .aio_lio_opcode = IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)file,
        .aio_buf = (uintptr_t)content,
        .aio_nbytes = 512,
        .aio_offset = offset,
    };
    struct iocb *list[] = {&request};
    CHECK_EQUAL(syscall(SYS_io_submit, context, 1, list), 1, "io_submit");
}

static void take(aio_context_t context, uint64_t data) {
    struct io_event event = {0};
    struct timespec limit = {.tv_sec = 2};
    CHECK_EQUAL(syscall(SYS_io_getevents, context, 1, 1, &event, &limit), 1, "io_getevents");
    CHECK_EQUAL(event.data, data, "the event's data");
    CHECK_EQUAL(event.res, 512, "the event's result");
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    file = object_file("data", O_RDWR, 4 * PAGE, 1);
    aio_context_t dropped = 0;
    MUST(syscall(SYS_io_setup, 64, &dropped));
    MUST(syscall(SYS_io_setup, 200, &first));
    MUST(syscall(SYS_io_setup, 8, &second));
    MUST(syscall(SYS_io_destroy, dropped));
    for (uint64_t i = 0; i < 700; i++) { // more than the ring holds: it has wrapped
        submit(first, i, 0);
        take(first, i);
    }
    submit(first, 1001, 0);
    submit(first, 1002, PAGE);
    submit(second, 2001, 0);
    object_sleep_ms(50);
    object_ready_and_wait();
    SABOTAGE(take(first, 1001));
    take(first, 1001);
    submit(first, 1003, 0);
    take(first, 1002);
    take(first, 1003);
    take(second, 2001);
    struct io_event event;
    struct timespec now = {0};
    CHECK_EQUAL(syscall(SYS_io_getevents, first, 0, 1, &event, &now), 0, "more events");
    for (uint64_t i = 0; i < 700; i++) {
        submit(second, i, 0);
        take(second, i);
        submit(first, i, 0);
        take(first, i);
    }
    MUST(syscall(SYS_io_destroy, first));
    MUST(syscall(SYS_io_destroy, second));
    object_pass();
}
