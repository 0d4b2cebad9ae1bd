// Descriptors of other kinds: a pidfd of a child, a pseudo
// terminal with content, a descriptor in flight in a UNIX socket, a netlink socket, a raw
// packet socket, a POSIX message queue, an io_uring, a userfaultfd, a /proc file half read.
// argv[2] names the kind.
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "support/socket.h"

static void child_body(void *argument) {
    (void)argument;
    object_child_wait();
}

static void check_pidfd(void) {
    pid_t child = object_fork(child_body, NULL);
    int fd = MUST(syscall(SYS_pidfd_open, child, 0));
    object_ready_and_wait();
    SABOTAGE(close(fd));
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK_EQUAL(poll(&poller, 1, 0), 0, "events before the child's end");
    MUST(syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0));
    CHECK_EQUAL(poll(&poller, 1, 5000), 1, "events after the child's end");
    object_reap(child);
}

static void check_pty(void) {
    char name[64], text[64] = "";
    int master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(grantpt(master));
    MUST(unlockpt(master));
    MUST_BE_ZERO(ptsname_r(master, name, sizeof name));
    int slave = MUST(open(name, O_RDWR | O_NOCTTY));
    struct termios settings;
    MUST(tcgetattr(slave, &settings));
    settings.c_lflag &= ~(tcflag_t)ECHO;
    MUST(tcsetattr(slave, TCSANOW, &settings));
    struct winsize size = {.ws_row = 33, .ws_col = 99};
    MUST(ioctl(master, TIOCSWINSZ, &size));
    CHECK(write(master, "typed\n", 6) == 6, "write: %s", strerror(errno));
    object_ready_and_wait();
    SABOTAGE(size.ws_row = 1; MUST(ioctl(master, TIOCSWINSZ, &size)));
    CHECK_EQUAL(read(slave, text, sizeof text), 6, "length of what was typed");
    CHECK(strcmp(text, "typed\n") == 0, "it says %s", text);
    MUST(tcgetattr(slave, &settings));
    CHECK((settings.c_lflag & ECHO) == 0, "the settings differ");
    MUST(ioctl(slave, TIOCGWINSZ, &size));
    CHECK(size.ws_row == 33 && size.ws_col == 99, "the size is %ux%u", size.ws_row, size.ws_col);
}

static void send_descriptor(int over, int fd) {
    char byte = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    MUST(sendmsg(over, &message, 0));
}

static void check_in_flight(void) {
    int pair[2], received = -1;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    int fd = object_file("data", O_RDONLY, 1000, 3);
    MUST(lseek(fd, 123, SEEK_SET));
    send_descriptor(pair[0], fd);
    close(fd);
    object_ready_and_wait();
    char byte, control[CMSG_SPACE(sizeof fd)];
    SABOTAGE(CHECK(recv(pair[1], &byte, 1, 0) == 1, "recv"); shutdown(pair[0], SHUT_WR));
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    CHECK_EQUAL(recvmsg(pair[1], &message, MSG_DONTWAIT), 1, "length of the message");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    CHECK(header != NULL && header->cmsg_type == SCM_RIGHTS, "the descriptor is lost");
    memcpy(&received, CMSG_DATA(header), sizeof received);
    CHECK_EQUAL(lseek(received, 0, SEEK_CUR), 123, "its position");
}

static void check_netlink(void) {
    int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK}, now;
    socklen_t length = sizeof now;
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
    MUST(getsockname(fd, (struct sockaddr *)&address, &length));
    object_ready_and_wait();
    SABOTAGE(close(fd));
    MUST(getsockname(fd, (struct sockaddr *)&now, &length));
    CHECK(now.nl_groups == RTMGRP_LINK && now.nl_pid == address.nl_pid, "the address differs");
}

static void check_message_queue(void) {
    char name[64], text[64] = "";
    snprintf(name, sizeof name, "/ferry-test-%d", getpid());
    struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = 64};
    mqd_t queue = MUST(mq_open(name, O_RDWR | O_CREAT | O_NONBLOCK, 0600, &attributes));
    MUST(mq_unlink(name));
    MUST(mq_send(queue, "message", 7, 3));
    object_ready_and_wait();
    unsigned priority = 0;
    SABOTAGE(mq_receive(queue, text, sizeof text, NULL));
    CHECK_EQUAL(mq_receive(queue, text, sizeof text, &priority), 7, "length of the message");
    CHECK_EQUAL(priority, 3, "priority");
}

static void check_io_uring(void) {
    struct io_uring_params parameters = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 4, &parameters);
    if (fd < 0) {
        object_put_file("result", "SKIP io_uring is not available\n");
        exit(0);
    }
    char *ring = object_map(parameters.sq_off.array + parameters.sq_entries * 4,
                            PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    object_ready_and_wait();
    SABOTAGE(close(fd));
    uint32_t entries = *(uint32_t *)(ring + parameters.sq_off.ring_entries);
    CHECK_EQUAL(entries, parameters.sq_entries, "size");
    CHECK_EQUAL(syscall(SYS_io_uring_enter, fd, 0, 0, 0, NULL, 0), 0, "io_uring_enter");
}

static void check_userfaultfd(void) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0) {
        object_put_file("result", "SKIP userfaultfd is not available\n");
        exit(0);
    }
    char *area = object_map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)area, PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    MUST(ioctl(fd, UFFDIO_REGISTER, &range));
    object_ready_and_wait();
    SABOTAGE(close(fd));
    char page[PAGE];
    object_fill(page, PAGE, 8);
    struct uffdio_copy copy = {.dst = (uintptr_t)area, .src = (uintptr_t)page, .len = PAGE};
    MUST(ioctl(fd, UFFDIO_COPY, &copy));
    CHECK_FILLED(area, PAGE, 8, "the page that was put there");
}

static void check_proc_file(void) {
    char line[64];
    int fd = MUST(open("/proc/self/status", O_RDONLY));
    CHECK(read(fd, line, 10) == 10, "read: %s", strerror(errno));
    object_ready_and_wait();
    SABOTAGE(close(fd));
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 10, "position");
    CHECK_EQUAL(lseek(fd, 0, SEEK_SET), 0, "lseek");
    CHECK(read(fd, line, 5) == 5 && memcmp(line, "Name:", 5) == 0, "the file is another one");
}

static const struct {
    const char *name;
    void (*check)(void);
} kinds[] = {
    {"pidfd", check_pidfd},
    {"pty", check_pty},                 {"in-flight", check_in_flight},
    {"netlink", check_netlink},         {"message-queue", check_message_queue},
    {"io_uring", check_io_uring},       {"userfaultfd", check_userfaultfd},
    {"proc-file", check_proc_file},
};

int main(int argc, char **argv) {
    object_start(argc, argv);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (argc > 2 && strcmp(kinds[i].name, argv[2]) == 0) {
            kinds[i].check();
            object_pass();
        }
    }
    object_fail("there is no kind %s", argc > 2 ? argv[2] : "");
}
