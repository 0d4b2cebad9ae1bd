// Epoll: level and edge triggered, one-shot (armed and spent), data values, an event that is
// ready but not yet fetched, a nested set, a removed member, and a member under two numbers.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "support/object.h"

static void add(int set, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
}

/// The events of the member with this data that are ready now; 0 when it is not among them.
static uint32_t events_of(struct epoll_event *events, int count, uint64_t data) {
    uint32_t found = 0;
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == data) {
            CHECK(found == 0, "data %lx is reported twice", data);
            found = events[i].events;
        }
    }
    return found;
}

static int fetch(int set, struct epoll_event events[16]) {
    return MUST(epoll_wait(set, events, 16, 0));
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    struct epoll_event events[16];
    int set = MUST(epoll_create1(EPOLL_CLOEXEC)), inner = MUST(epoll_create1(0));
    int level = MUST(eventfd(5, 0)), edge_new = MUST(eventfd(1, 0));
    int edge_old = MUST(eventfd(1, 0)), spent = MUST(eventfd(1, 0)), armed = MUST(eventfd(0, 0));
    int quiet = MUST(eventfd(0, 0)), removed = MUST(eventfd(1, 0)), inside = MUST(eventfd(1, 0));
    add(set, level, EPOLLIN, 0x1111111100000001);
    add(set, edge_old, EPOLLIN | EPOLLET, 3);
    add(set, spent, EPOLLIN | EPOLLONESHOT, 4);
    add(set, armed, EPOLLIN | EPOLLONESHOT, 5);
    add(set, quiet, EPOLLIN | EPOLLPRI, 6);
    add(set, removed, EPOLLIN, 7);
    add(inner, inside, EPOLLIN, 8);
    add(set, inner, EPOLLIN, 9);
    int high = MUST(fcntl(level, F_DUPFD, 200));
    add(set, high, EPOLLOUT, 10);
    fetch(set, events); // edge_old is now reported, spent is spent
    MUST(epoll_ctl(set, EPOLL_CTL_DEL, removed, NULL));
    add(set, edge_new, EPOLLIN | EPOLLET, 2); // ready, and never fetched
    object_ready_and_wait();
    SABOTAGE(struct epoll_event other = {.events = EPOLLIN, .data.u64 = 12};
             MUST(epoll_ctl(set, EPOLL_CTL_MOD, level, &other)));
    int count = fetch(set, events);
    CHECK_EQUAL(events_of(events, count, 0x1111111100000001), EPOLLIN, "level triggered");
    CHECK_EQUAL(events_of(events, count, 2), EPOLLIN, "edge triggered, never fetched");
    CHECK_EQUAL(events_of(events, count, 4), 0, "spent one-shot");
    CHECK_EQUAL(events_of(events, count, 5), 0, "armed one-shot, not ready");
    CHECK_EQUAL(events_of(events, count, 6), 0, "quiet");
    CHECK_EQUAL(events_of(events, count, 7), 0, "removed");
    CHECK_EQUAL(events_of(events, count, 9), EPOLLIN, "nested");
    CHECK_EQUAL(events_of(events, count, 10), EPOLLOUT, "second number of one description");
    // An edge that was reported may be reported once more after a restore (a spurious wake-up,
    // which epoll(7) tells programs to expect), but not again and again.
    count = fetch(set, events);
    CHECK_EQUAL(events_of(events, count, 3), 0, "edge triggered, fetched before");
    CHECK_EQUAL(events_of(events, count, 2), 0, "edge triggered, fetched now");
    CHECK_EQUAL(fetch(inner, events), 1, "events in the nested set");
    CHECK_EQUAL(events[0].data.u64, 8, "data in the nested set");
    // Everything still works: new edges, the one-shots, the quiet one, re-arming, removal.
    int written[] = {edge_old, edge_new, armed, quiet, removed};
    for (size_t i = 0; i < COUNT_OF(written); i++) {
        MUST(eventfd_write(written[i], 1));
    }
    count = fetch(set, events);
    CHECK_EQUAL(events_of(events, count, 3), EPOLLIN, "a new edge on the old one");
    CHECK_EQUAL(events_of(events, count, 2), EPOLLIN, "a new edge on the new one");
    CHECK_EQUAL(events_of(events, count, 5), EPOLLIN, "the armed one-shot");
    CHECK_EQUAL(events_of(events, count, 6), EPOLLIN, "the quiet one");
    CHECK_EQUAL(events_of(events, count, 7), 0, "the removed one");
    struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 44};
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, spent, &again));
    count = fetch(set, events);
    CHECK_EQUAL(events_of(events, count, 44), EPOLLIN, "the spent one-shot, armed again");
    CHECK_EQUAL(events_of(events, count, 5), 0, "the other one-shot is spent now");
    MUST(epoll_ctl(set, EPOLL_CTL_DEL, high, NULL));
    CHECK(epoll_ctl(set, EPOLL_CTL_DEL, removed, NULL) == -1 && errno == ENOENT, "removed again");
    CHECK_EQUAL(fcntl(set, F_GETFD), FD_CLOEXEC, "close-on-exec");
    object_pass();
}
