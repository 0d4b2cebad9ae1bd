/* Has one TCP socket, whose segments it signs from its first SIGUSR1 on (TCP_MD5SIG), and no longer from its second. Says
 * "ready", "signed", "unsigned". Argument: unbound, bound, listening or connected. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in at = {.sin_family = AF_INET};

static int make(const char *kind) {
    socklen_t length = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strcmp(kind, "unbound") == 0) return fd;
    if (bind(fd, (struct sockaddr *)&at, length) != 0 || getsockname(fd, (struct sockaddr *)&at, &length) != 0) return -1;
    if (strcmp(kind, "bound") == 0) return fd;
    if (listen(fd, 1) != 0) return -1;
    if (strcmp(kind, "listening") == 0) return fd;
    int client = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client, (struct sockaddr *)&at, length) != 0 || accept(fd, NULL, NULL) < 0) return -1;
    close(fd);
    return client;
}

static int sign(int fd, int key_bytes) {
    struct tcp_md5sig key = {.tcpm_keylen = (unsigned short)key_bytes, .tcpm_key = "secret"};
    memcpy(&key.tcpm_addr, &at, sizeof at);
    return setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof key);
}

static int say(const char *word) {
    return write(1, word, strlen(word)) < 0;
}

int main(int argc, char **argv) {
    close_range(3, ~0u, 0);
    int fd = argc > 1 ? make(argv[1]) : -1;
    int signal;
    sigset_t order;
    sigemptyset(&order);
    sigaddset(&order, SIGUSR1);
    sigprocmask(SIG_BLOCK, &order, NULL);
    if (fd < 0 || say("ready\n")) return 1;
    for (int is_signed = 1;; is_signed = !is_signed) {
        if (sigwait(&order, &signal) != 0 || sign(fd, is_signed ? 6 : 0) != 0) return 2;
        if (say(is_signed ? "signed\n" : "unsigned\n")) return 3;
    }
}
