// A member of an epoll set whose number was closed (and given to something else) while its
// description lives on under another number: it is still reported, with its old data.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "support/object.h"

int main(int argc, char **argv) {
    object_start(argc, argv);
    int set = MUST(epoll_create1(0)), fd = MUST(eventfd(1, 0));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 4711};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    int kept = MUST(dup(fd));
    int other = MUST(eventfd(0, 0));
    MUST(dup3(other, fd, 0));
    object_ready_and_wait();
    SABOTAGE(eventfd_t value; eventfd_read(kept, &value));
    CHECK_EQUAL(epoll_wait(set, &event, 1, 0), 1, "events");
    CHECK_EQUAL(event.data.u64, 4711, "data");
    eventfd_t value;
    MUST(eventfd_read(kept, &value));
    CHECK_EQUAL(epoll_wait(set, &event, 1, 0), 0, "events after reading");
    object_pass();
}
