// UNIX sockets in less common circumstances: descriptors in flight within descriptors in flight,
// names that are relative, renamed or gone, datagrams from several senders, half closed ends.
#include "support/socket.h"

static char path[PATH_MAX], buffer[8192];

static socklen_t name(union address *address, const char *text) {
    memset(address, 0, sizeof *address);
    address->local.sun_family = AF_UNIX;
    strcpy(address->local.sun_path, text);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text) + 1);
}

static void pass(int over, const int *fds, int count, char byte) {
    char control[CMSG_SPACE(8 * sizeof(int))] = {0};
    size_t size = (size_t)count * sizeof(int);
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(size)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(header), fds, size);
    MUST(sendmsg(over, &message, 0));
}

static void take(int over, int *fds, int count, char byte) {
    char got = 0, control[CMSG_SPACE(8 * sizeof(int))];
    struct iovec vector = {&got, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    CHECK(recvmsg(over, &message, MSG_DONTWAIT) == 1, "recvmsg: %s", strerror(errno));
    CHECK_EQUAL(got, byte, "byte of the message");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    CHECK(header != NULL && header->cmsg_type == SCM_RIGHTS, "no descriptors came");
    CHECK_EQUAL(header->cmsg_len, CMSG_LEN((size_t)count * sizeof(int)), "length of the rights");
    memcpy(fds, CMSG_DATA(header), (size_t)count * sizeof(int));
}

/// A pair in flight whose own queue holds a pipe and a removed file; the pipe is full of words.
static void nested(void) {
    int outer[2], inner[2], pipes[2], fds[3];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, outer));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, inner));
    MUST(pipe(pipes));
    CHECK(write(pipes[1], "in the pipe", 11) == 11, "write");
    int file = object_file("data", O_RDWR, 1000, 3);
    MUST(unlink(object_path(path, "data")));
    MUST(lseek(file, 77, SEEK_SET));
    pass(inner[0], (int[]){pipes[0], file, pipes[0]}, 3, 'i');
    pass(outer[0], inner, 2, 'o');
    close(pipes[0]), close(pipes[1]), close(file), close(inner[0]), close(inner[1]);
    object_pause();
    SABOTAGE(CHECK(recv(outer[1], buffer, 1, 0) == 1, "recv"); send(outer[0], "o", 1, 0));
    take(outer[1], inner, 2, 'o');
    take(inner[1], fds, 3, 'i');
    CHECK(read(fds[2], buffer, 100) == 11 && memcmp(buffer, "in the pipe", 11) == 0, "the pipe");
    CHECK_EQUAL(read(fds[0], buffer, 100), 0, "the end of the pipe");
    CHECK_EQUAL(lseek(fds[1], 0, SEEK_CUR), 77, "position");
    CHECK_EQUAL(pread(fds[1], buffer, 1000, 0), 1000, "length of the file");
    CHECK_FILLED(buffer, 1000, 3, "the file");
    check_talk(inner[0], inner[1], "the inner pair");
}

/// Datagram sockets by relative, renamed and removed names, and several senders in turn.
static void names(void) {
    union address address, from;
    MUST(mkdir(object_path(path, "folder"), 0755));
    CHECK(chdir(path) == 0, "chdir");
    int relative = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), senders[3];
    socklen_t length = name(&address, "relative");
    MUST(bind(relative, &address.any, length));
    MUST(chmod("relative", 0642));
    for (int i = 0; i < 3; i++) {
        senders[i] = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
        union address own;
        snprintf(buffer, sizeof buffer, "sender%d", i);
        socklen_t own_length = name(&own, buffer);
        if (i > 0) {
            MUST(bind(senders[i], &own.any, own_length));
        }
    }
    for (int i = 0; i < 9; i++) {
        MUST(sendto(senders[i % 3], &i, sizeof i, 0, &address.any, length));
    }
    close(senders[2]);
    MUST(unlink("sender2"));
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    length = name(&address, "old");
    MUST(bind(listener, &address.any, length));
    MUST(listen(listener, 5));
    int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(client, &address.any, length));
    int server = MUST(accept(listener, NULL, NULL));
    MUST(rename("old", "new"));
    CHECK(chdir("/") == 0, "chdir");
    object_pause();
    SABOTAGE(CHECK(recv(relative, buffer, 9, 0) > 0, "recv"));
    for (int i = 0; i < 9; i++) {
        int value = -1;
        length = sizeof from;
        memset(&from, 0, sizeof from);
        CHECK_EQUAL(recvfrom(relative, &value, 4, MSG_DONTWAIT, &from.any, &length), 4, "length");
        CHECK_EQUAL(value, i, "datagram");
        snprintf(buffer, sizeof buffer, "sender%d", i % 3);
        CHECK(strcmp(from.local.sun_path, i % 3 == 0 ? "" : buffer) == 0, "it is from %s",
              from.local.sun_path);
    }
    struct stat status;
    MUST(stat(object_path(path, "folder/relative"), &status));
    CHECK_EQUAL(status.st_mode, S_IFSOCK | 0642, "mode");
    length = sizeof from;
    MUST(getsockname(listener, &from.any, &length));
    CHECK(strcmp(from.local.sun_path, "old") == 0, "the name is %s", from.local.sun_path);
    CHECK(chdir(object_path(path, "folder")) == 0, "chdir");
    check_talk(client, server, "the connection");
    int fresh = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    length = name(&address, "new");
    CHECK(connect(fresh, &address.any, length) == 0, "connect by the new name: %s",
          strerror(errno));
    check_talk(fresh, MUST(accept(listener, NULL, NULL)), "a fresh connection");
}

/// Ends that are shut down in one direction or both, with data; one whose peer is gone.
static void halves(void) {
    int pairs[4][2];
    for (int i = 0; i < 4; i++) {
        MUST(socketpair(AF_UNIX, i == 3 ? SOCK_SEQPACKET : SOCK_STREAM, 0, pairs[i]));
        send_filled(pairs[i][0], 300, 7 + (uint64_t)i);
    }
    MUST(shutdown(pairs[0][0], SHUT_WR));
    MUST(shutdown(pairs[1][0], SHUT_RDWR));
    MUST(shutdown(pairs[2][1], SHUT_RD));
    close(pairs[3][0]);
    object_pause();
    SABOTAGE(CHECK(recv(pairs[0][1], buffer, 1, 0) == 1, "recv"));
    receive_filled(pairs[0][1], 300, 7, "the first pair");
    check_end(pairs[0][1], "the first pair");
    send_filled(pairs[0][1], 50, 9);
    receive_filled(pairs[0][0], 50, 9, "the first pair, back");
    receive_filled(pairs[1][1], 300, 8, "the second pair");
    check_end(pairs[1][1], "the second pair");
    CHECK(send(pairs[1][1], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "it can be sent to");
    CHECK(send(pairs[2][0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "its reader is there");
    CHECK_EQUAL(recv(pairs[3][1], buffer, sizeof buffer, 0), 300, "a packet");
    check_end(pairs[3][1], "the fourth pair");
}

/// Not accepted yet, with different backlogs; and MSG_PEEK offsets.
static void waiting(void) {
    union address address;
    int listener = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0)), clients[2];
    CHECK(chdir(object_directory) == 0, "chdir");
    socklen_t length = name(&address, "listener");
    MUST(bind(listener, &address.any, length));
    MUST(listen(listener, 1));
    for (int i = 0; i < 2; i++) {
        clients[i] = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
        MUST(connect(clients[i], &address.any, length));
    }
    int pair[2], offset = 5;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    set_option(pair[1], SOL_SOCKET, SO_PEEK_OFF, offset);
    send_filled(pair[0], 100, 4);
    object_pause();
    SABOTAGE(close(clients[1]); MUST(accept(listener, NULL, NULL)); MUST(accept(listener, NULL, NULL)));
    CHECK_EQUAL(get_option(pair[1], SOL_SOCKET, SO_PEEK_OFF), 5, "SO_PEEK_OFF");
    receive_filled(pair[1], 100, 4, "the pair");
    for (int i = 0; i < 2; i++) {
        check_talk(MUST(accept(listener, NULL, NULL)), clients[i], "a connection that waited");
    }
}

static const struct object_kind kinds[] = {
    {"nested", nested},    {"names", names},
    {"halves", halves}, {"waiting", waiting},
};

int main(int argc, char **argv) {
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
