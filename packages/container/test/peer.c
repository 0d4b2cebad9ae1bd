/* A container program for tests: static, so that it can also stand in for the restorer.
 *   serve PORT      answers each connection with its own PID and a line
 *   restore PORT    as serve, after making a child with the PID 77 (clone3 set_tid)
 *   ask IP PORT     prints what the peer says; "no answer" after 300 ms, "refused" on a reset */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sockaddr_storage address(const char *ip, int port, socklen_t *length) {
    struct sockaddr_storage all = {0};
    if (strchr(ip, ':')) {
        struct sockaddr_in6 *six = (void *)&all;
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        inet_pton(AF_INET6, ip, &six->sin6_addr);
        *length = sizeof *six;
    } else {
        struct sockaddr_in *four = (void *)&all;
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        inet_pton(AF_INET, ip, &four->sin_addr);
        *length = sizeof *four;
    }
    return all;
}

static void make_child_77(void) {
    pid_t want[1] = {77};
    struct clone_args args;
    memset(&args, 0, sizeof args);
    args.exit_signal = 17;
    args.set_tid = (uintptr_t)want;
    args.set_tid_size = 1;
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) for (;;) pause();
    printf("restored: pid %d, child %ld%s%s\n", getpid(), pid, pid < 0 ? " " : "",
           pid < 0 ? strerror(errno) : "");
    fflush(stdout);
}

static int serve(int port) {
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM, 0);
    socklen_t length;
    struct sockaddr_storage here = address("::", port, &length);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&here, length) != 0 || listen(fd, 16) != 0) return 1;
    puts("serving");
    fflush(stdout);
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        if (peer < 0) return 1;
        dprintf(peer, "pid %d\n", getpid());
        close(peer);
    }
}

static int ask(const char *ip, int port) {
    socklen_t length;
    struct sockaddr_storage there = address(ip, port, &length);
    int fd = socket(there.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    connect(fd, (void *)&there, length);
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (poll(&wait, 1, 300) == 0) return puts("no answer"), 3;
    char text[100];
    ssize_t got = read(fd, text, sizeof text);
    bool reset = errno == ECONNREFUSED || errno == ECONNRESET;
    if (got < 0) return puts(reset ? "refused" : strerror(errno)), 4;
    fwrite(text, 1, (size_t)got, stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "restore") == 0) make_child_77();
    if (argc == 3) return serve(atoi(argv[2]));
    if (argc == 4) return ask(argv[2], atoi(argv[3]));
    return 2;
}
