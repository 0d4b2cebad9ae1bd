/* Writes to a file in ways that leave no time behind. Arguments: path, how, then: "once": maps it, closes it, reads it,
 * writes it and ends; "hold": the same, and writes again for each line it reads, "done" after each; "sent": leaves the
 * descriptor in a socket for each line, and takes it out and writes through a mapping for the next one. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int fd, ends[2];
static volatile unsigned char *bytes;
static size_t size;
static unsigned char value = 1;

static void map(void) {
    struct stat about;
    fstat(fd, &about);
    size = (size_t)about.st_size;
    bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) exit(1);
    close(fd);
    for (size_t at = 0; at < size; at += 4096) (void)bytes[at];
}

static void write_it(void) {
    for (size_t at = 0; at < size; at += 100000) bytes[at] = value;
    value++;
}

static void send_it(void) {
    char space[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    if (sendmsg(ends[0], &message, 0) != 1) exit(2);
    close(fd);
}

static void take_it(void) {
    char space[CMSG_SPACE(sizeof fd)], byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    if (recvmsg(ends[1], &message, 0) != 1) exit(3);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
}

int main(int argc, char **argv) {
    char line[16];
    if (argc < 3 || (fd = open(argv[1], O_RDWR)) < 0) return 4;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(argv[2], "sent") == 0) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 5;
        send_it();
        puts("done");
        while (fgets(line, sizeof line, stdin)) {
            take_it();
            int other = dup(fd);
            map();
            write_it();
            munmap((void *)bytes, size);
            fd = other;
            send_it();
            puts("done");
        }
        return 0;
    }
    map();
    write_it();
    if (strcmp(argv[2], "hold") != 0) return 0;
    puts("done");
    while (fgets(line, sizeof line, stdin)) {
        write_it();
        puts("done");
    }
}
