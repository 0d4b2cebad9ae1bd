// Established TCP connections with both ends in the tree: unread bytes in both directions, queues
// so full that bytes wait unsent, ends in two processes, and a stream that runs during the dump.
// argv[2]: 4 or 6; argv[3]: quiet, full, running.
#include "support/socket.h"

struct connection {
    int client, server;
    union address client_address, server_address;
};

static struct connection connect_pair(int family) {
    struct connection made;
    union address address;
    int listener = bound_socket(family, SOCK_STREAM, &address);
    MUST(listen(listener, 1));
    made.client = connected_socket(&address, SOCK_STREAM);
    made.server = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    close(listener);
    socklen_t length = sizeof made.client_address;
    MUST(getsockname(made.client, &made.client_address.any, &length));
    length = sizeof made.server_address;
    MUST(getsockname(made.server, &made.server_address.any, &length));
    return made;
}

static void check_names(struct connection *pair) {
    union address now;
    socklen_t length = sizeof now;
    MUST(getsockname(pair->client, &now.any, &length));
    check_same_address(&now, &pair->client_address, length, "the client");
    length = sizeof now;
    MUST(getpeername(pair->client, &now.any, &length));
    check_same_address(&now, &pair->server_address, length, "the client's peer");
    length = sizeof now;
    MUST(getpeername(pair->server, &now.any, &length));
    check_same_address(&now, &pair->client_address, length, "the server's peer");
}

static struct connection running;

/// Echoes what comes until the end.
static void echo(void *argument) {
    (void)argument;
    char buffer[8192];
    ssize_t got;
    close(running.client);
    object_child_ready();
    while ((got = recv(running.server, buffer, sizeof buffer, 0)) > 0) {
        for (ssize_t sent = 0; sent < got;) {
            ssize_t done = send(running.server, buffer + sent, (size_t)(got - sent), 0);
            CHECK(done > 0, "send: %s", strerror(errno));
            sent += done;
        }
    }
    CHECK(got == 0, "recv: %s", strerror(errno));
    object_wait();
}

/// Sends numbers, keeps a thousand of them under way, and reads them back in order.
static void ask(void *argument) {
    (void)argument;
    uint64_t sent = 0, received = 0, word = 0;
    sigset_t one;
    struct timespec no_time = {0};
    bool stops = false;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    close(running.server);
    object_child_ready();
    while (!stops || received < sent) {
        stops = stops || sigtimedwait(&one, NULL, &no_time) == SIGUSR1;
        while (!stops && sent < received + 1000) {
            word = object_word(3, sent++);
            CHECK(send(running.client, &word, 8, 0) == 8, "send: %s", strerror(errno));
        }
        CHECK(recv(running.client, &word, 8, MSG_WAITALL) == 8, "recv: %s", strerror(errno));
        SABOTAGE(if (received == 5000) word++);
        CHECK(word == object_word(3, received), "word %lu is wrong", received);
        received++;
    }
    CHECK(received > 0, "nothing came back");
}

static void try_quiet(int family) {
    struct connection quiet = connect_pair(family), unread = connect_pair(family);
    struct connection idle = connect_pair(family);
    check_talk(quiet.client, quiet.server, "before");
    send_filled(unread.client, 10000, 1);
    send_filled(unread.server, 20000, 2);
    MUST(fcntl(idle.client, F_SETFL, O_NONBLOCK));
    object_sleep_ms(20);
    object_ready_and_wait();
    SABOTAGE(char byte; CHECK(recv(unread.client, &byte, 1, 0) == 1, "recv"));
    check_names(&quiet);
    check_names(&unread);
    check_talk(quiet.client, quiet.server, "quiet");
    receive_filled(unread.server, 10000, 1, "unread");
    receive_filled(unread.client, 20000, 2, "unread, other direction");
    check_talk(unread.client, unread.server, "unread, afterwards");
    check_nothing(idle.client, "idle");
    CHECK((fcntl(idle.client, F_GETFL) & O_NONBLOCK) != 0, "flags");
    CHECK_EQUAL(fcntl(idle.client, F_GETFD), FD_CLOEXEC, "close-on-exec");
    close(idle.server);
    check_end(idle.client, "idle, closed now");
}

static void try_full(int family) {
    struct connection full = connect_pair(family);
    size_t there = send_until_full(full.client, 11), back = send_until_full(full.server, 12);
    object_ready_and_wait();
    check_names(&full);
    SABOTAGE(there++);
    receive_filled(full.server, there, 11, "full");
    receive_filled(full.client, back, 12, "full, other direction");
    check_talk(full.client, full.server, "full, afterwards");
}

static void try_running(int family) {
    running = connect_pair(family);
    pid_t echoing = object_fork(echo, NULL), asking = object_fork(ask, NULL);
    close(running.client);
    close(running.server);
    object_sleep_ms(50);
    object_ready_and_wait();
    object_join(asking);
    object_join(echoing);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    int family = argc > 2 && argv[2][0] == '6' ? AF_INET6 : AF_INET;
    const char *kind = argc > 3 ? argv[3] : "quiet";
    if (strcmp(kind, "full") == 0) {
        try_full(family);
    } else if (strcmp(kind, "running") == 0) {
        try_running(family);
    } else {
        try_quiet(family);
    }
    object_pass();
}
