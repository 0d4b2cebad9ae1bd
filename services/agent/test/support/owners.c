/* Looks, all the while, whether it and its files are whom they were: "intact", or "damaged" and what. For a container with a
 * user namespace: root, and a child that is user 1000 of group 1001; files of both in the image, in the writable layer and
 * on two tmpfs mounts; and what only some privilege over the namespace makes: connections, files without a name, owners. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { USER = 1000, GROUP = 1001, EXTRA = 27, STRANGER = 1234, TEXT_BYTES = 512 };

static const char *const folders[] = {"/data", "/scratch", "/dev/shm"};
static char maps[2][TEXT_BYTES];
static int nameless, memory, ends[2];
static unsigned *counted;

static void damaged(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("damaged ");
    vprintf(format, args);
    printf(" (%m)\n");
    va_end(args);
    exit(1);
}

static void must(int done, const char *what) {
    if (!done) damaged("%s", what);
}

static void read_text(const char *path, char *text) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    must(fd >= 0, path);
    ssize_t length = read(fd, text, TEXT_BYTES - 1);
    must(length >= 0, path);
    text[length] = 0;
    close(fd);
}

static void check_owner(const char *path, uid_t uid, gid_t gid) {
    struct stat about;
    must(lstat(path, &about) == 0, path);
    if (about.st_uid != uid || about.st_gid != gid)
        damaged("%s belongs to %u:%u, not %u:%u", path, about.st_uid, about.st_gid, uid, gid);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
    close(fd);
}

static void check_ids(uid_t uid, gid_t gid, int groups) {
    uid_t u[3];
    gid_t g[3], extra[8];
    getresuid(&u[0], &u[1], &u[2]);
    getresgid(&g[0], &g[1], &g[2]);
    for (int i = 0; i < 3; i++)
        if (u[i] != uid || g[i] != gid) damaged("it is %u:%u, not %u:%u", u[i], g[i], uid, gid);
    int count = getgroups(8, extra);
    if (count != groups || (groups == 1 && extra[0] != EXTRA)) damaged("it has %d groups, not %d", count, groups);
    char text[TEXT_BYTES];
    read_text("/proc/self/uid_map", text);
    if (strcmp(text, maps[0]) != 0) damaged("users: %s", text);
    read_text("/proc/self/gid_map", text);
    if (strcmp(text, maps[1]) != 0) damaged("groups: %s", text);
}

/* Old files, and one that is made anew. */
static void check_files(uid_t uid, gid_t gid) {
    char path[64], text[TEXT_BYTES], wanted[32];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        sprintf(wanted, "%u in %s", uid, folders[i]);
        sprintf(path, "%s/of-%u", folders[i], uid);
        check_owner(path, uid, gid);
        read_text(path, text);
        if (strcmp(text, wanted) != 0) damaged("%s says %s", path, text);
        put(path, wanted);
        sprintf(path, "%s/new-%u", folders[i], uid);
        put(path, wanted);
        check_owner(path, uid, gid);
        if (uid == 0) {
            must(chown(path, STRANGER, STRANGER) == 0, "chown");
            check_owner(path, STRANGER, STRANGER);
        }
        must(unlink(path) == 0, path);
    }
}

static void check_root_only(unsigned round) {
    struct stat about;
    check_owner("/", 0, 0);
    check_owner("/image/root", 0, 0);
    check_owner("/image/user", USER, GROUP);
    check_owner("/image/given", USER, USER);
    put("/image/user", "changed");
    must(fstat(nameless, &about) == 0 && about.st_uid == USER && about.st_nlink == 0, "a file without a name");
    must(fstat(memory, &about) == 0 && about.st_uid == 0, "a file in memory");
    unsigned got = 0;
    must(write(ends[0], &round, sizeof round) == sizeof round, "write to a connection");
    must(read(ends[1], &got, sizeof got) == sizeof got && got == round, "read from a connection");
    int again = open("/dev/stdout", O_WRONLY | O_CLOEXEC);
    must(again >= 0, "its output, opened anew");
    close(again);
    must(sethostname(round % 2 ? "odd" : "even", round % 2 ? 3 : 4) == 0, "sethostname");
}

static void connect_self(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(bind(listener, (struct sockaddr *)&at, length) == 0 && listen(listener, 1) == 0, "listen");
    must(getsockname(listener, (struct sockaddr *)&at, &length) == 0, "getsockname");
    ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(connect(ends[0], (struct sockaddr *)&at, length) == 0, "connect");
    ends[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    must(ends[1] >= 0, "accept");
}

static void make_files(void) {
    char path[64], text[32];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        must(chmod(folders[i], 0777) == 0, folders[i]);
        for (int whose = 0; whose < 2; whose++) {
            sprintf(path, "%s/of-%u", folders[i], whose ? USER : 0);
            sprintf(text, "%u in %s", whose ? USER : 0, folders[i]);
            put(path, text);
            if (whose) must(chown(path, USER, GROUP) == 0, path);
        }
    }
    must(chown("/image/given", USER, USER) == 0, "chown of a file of the image");
    nameless = open("/data", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    must(nameless >= 0 && fchown(nameless, USER, GROUP) == 0, "O_TMPFILE");
    memory = memfd_create("owned", MFD_CLOEXEC);
    must(memory >= 0 && write(memory, "text", 4) == 4, "memfd_create");
}

static void rest(void) {
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

static void be_user(void) {
    gid_t extra = EXTRA;
    must(setgroups(1, &extra) == 0 && setresgid(GROUP, GROUP, GROUP) == 0, "setgroups");
    must(setresuid(USER, USER, USER) == 0 && prctl(PR_SET_PDEATHSIG, 9) == 0, "setresuid");
    for (;; rest()) {
        check_ids(USER, GROUP, 1);
        check_files(USER, GROUP);
        must(open("/image/root", O_WRONLY) < 0 && errno == EACCES, "a file of root's is closed to others");
        ++*counted;
    }
}

/* With an argument: a child in a user namespace below. */
static void be_nested(void) {
    must(prctl(PR_SET_PDEATHSIG, 9) == 0 && unshare(CLONE_NEWUSER) == 0, "unshare");
    for (;;) pause();
}

int main(int argc, char **argv) {
    (void)argv;
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_text("/proc/self/uid_map", maps[0]);
    read_text("/proc/self/gid_map", maps[1]);
    must(setgroups(0, NULL) == 0, "setgroups");
    counted = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(counted != MAP_FAILED, "mmap");
    make_files();
    connect_self();
    if (fork() == 0) be_user();
    if (argc > 1 && fork() == 0) be_nested();
    unsigned before = 0;
    for (unsigned round = 0;; round++, rest()) {
        check_ids(0, 0, 0);
        check_files(0, 0);
        check_root_only(round);
        if (*counted < before + 10) continue;
        before = *counted;
        printf("intact\n");
    }
}
