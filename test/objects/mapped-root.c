// A user namespace of the program's own whose user 0 is another one outside: what is made there belongs to it, and what only
// the user outside may open stays open. argv[2]: files (sockets and their files, nameless files, one that is closed to it),
// mounts (a tmpfs with owners), nested (a namespace that a descriptor keeps), covered (files below another mount), denied
// (a map without privileges: groups cannot be set).
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>

#include "support/socket.h"

static char path[PATH_MAX];

static const char *path_of(const char *name) { return object_path(path, name); }

static void write_map(pid_t pid, const char *name, const char *text) {
    char file[64];
    snprintf(file, sizeof file, "/proc/%d/%s", pid, name);
    int fd = MUST(open(file, O_WRONLY));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", file, strerror(errno));
    close(fd);
}

// Only who is outside may give a range: a child, from before.
static void enter(void) {
    int made[2];
    char byte = 0;
    MUST(chmod(object_directory, 0777));
    MUST(pipe2(made, O_CLOEXEC));
    pid_t root = getpid(), child = MUST(fork());
    if (child == 0) {
        close(made[1]);
        if (read(made[0], &byte, 1) != 1) _exit(2);
        write_map(root, "uid_map", "0 100000 50000\n50000 300000 1000\n");
        write_map(root, "gid_map", "0 400000 50000\n");
        _exit(0);
    }
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
        object_put_file("result", "SKIP no user namespace\n");
        kill(child, SIGKILL);
        exit(0);
    }
    CHECK(write(made[1], "x", 1) == 1, "write");
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0, "maps: status %d", status);
    close(made[0]);
    close(made[1]);
    MUST(setgroups(0, NULL));
    MUST(setresgid(0, 0, 0));
    MUST(setresuid(0, 0, 0));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

// As a user without privileges does, for whom the groups stay as they are.
static void enter_denied(void) {
    MUST(setgroups(2, (gid_t[]){0, 77}));
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
        object_put_file("result", "SKIP no user namespace\n");
        exit(0);
    }
    write_map(getpid(), "setgroups", "deny");
    write_map(getpid(), "uid_map", "0 0 1\n");
    write_map(getpid(), "gid_map", "0 0 1\n");
}

static void denied(void) {
    object_ready_and_wait();
    SABOTAGE(MUST(unshare(CLONE_NEWUSER)));
    gid_t groups[8];
    CHECK_EQUAL(getgroups(8, groups), 2, "number of groups");
    CHECK_EQUAL(groups[0], 0, "first group");
    CHECK_EQUAL(groups[1], 65534, "second group");
    CHECK(setgroups(0, NULL) < 0 && errno == EPERM, "groups can be set");
}

static void check_owner(const char *name, uid_t uid, gid_t gid) {
    struct stat info;
    MUST(stat(path_of(name), &info));
    CHECK_EQUAL(info.st_uid, uid, name);
    CHECK_EQUAL(info.st_gid, gid, name);
}

static int closed_file = -1;

static void files(void) {
    union address address = {.local = {.sun_family = AF_UNIX}};
    CHECK(strlen(path_of("socket")) < sizeof address.local.sun_path, "the path is too long");
    strcpy(address.local.sun_path, path_of("socket"));
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, &address.any, sizeof address.local));
    MUST(listen(listener, 5));
    MUST(chown(path_of("socket"), 33, 44));
    int nameless = MUST(open(path_of("nameless"), O_RDWR | O_CREAT, 0600));
    CHECK(write(nameless, "kept", 4) == 4, "write");
    MUST(fchown(nameless, 50001, 0));
    MUST(unlink(path_of("nameless")));
    object_ready_and_wait();
    SABOTAGE(MUST(chown(path_of("socket"), 0, 44)));
    check_owner("socket", 33, 44);
    struct stat info;
    MUST(fstat(nameless, &info));
    CHECK_EQUAL(info.st_uid, 50001, "owner of the file without a name");
    char text[8] = "";
    CHECK(pread(nameless, text, 7, 0) == 4 && strcmp(text, "kept") == 0, "it says %s", text);
    int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(client, &address.any, sizeof address.local));
    CHECK(pread(closed_file, text, 7, 0) == 6 && memcmp(text, "closed", 6) == 0, "the closed file says %s", text);
    CHECK(write(closed_file, "!", 1) == 1, "the closed file cannot be written");
    CHECK(open(path_of("closed"), O_RDONLY) < 0 && errno == EACCES, "the closed file is open to all");
}

static void mounts(void) {
    MUST(mkdir(path_of("m"), 0755));
    MUST(mount("t", path_of("m"), "tmpfs", 0, "uid=5,gid=6,mode=750"));
    object_write_file("m/file", 0, "x");
    MUST(chown(path_of("m/file"), 50002, 8));
    object_ready_and_wait();
    SABOTAGE(MUST(chown(path_of("m/file"), 0, 8)));
    check_owner("m", 5, 6);
    check_owner("m/file", 50002, 8);
}

// A namespace below the program's own that belongs to the same user namespace; only a descriptor keeps it.
static void nested(void) {
    char name[64] = "";
    MUST(unshare(CLONE_NEWUTS));
    int home = MUST(open("/proc/self/ns/uts", O_RDONLY));
    MUST(unshare(CLONE_NEWUTS));
    MUST(sethostname("inner", 5));
    int held = MUST(open("/proc/self/ns/uts", O_RDONLY));
    MUST(setns(home, CLONE_NEWUTS));
    MUST(sethostname("outer", 5));
    object_ready_and_wait();
    SABOTAGE(MUST(dup2(home, held)));
    MUST(gethostname(name, sizeof name));
    CHECK(strcmp(name, "outer") == 0, "the host name is %s", name);
    MUST(setns(held, CLONE_NEWUTS));
    MUST(gethostname(name, sizeof name));
    CHECK(strcmp(name, "inner") == 0, "the host name there is %s", name);
}

static void covered(void) {
    MUST(mkdir(path_of("m"), 0755));
    MUST(mount("t", path_of("m"), "tmpfs", 0, NULL));
    MUST(mount(NULL, path_of("m"), NULL, MS_SHARED, NULL));
    object_write_file("m/file", 0, "under");
    int file = MUST(open(path_of("m/file"), O_RDONLY));
    MUST(mount("t", path_of("m"), "tmpfs", 0, NULL));
    object_ready_and_wait();
    SABOTAGE(MUST(lseek(file, 1, SEEK_SET)));
    char text[8] = "";
    CHECK(read(file, text, 7) == 5 && strcmp(text, "under") == 0, "the file says %s", text);
    CHECK(access(path_of("m/file"), F_OK) != 0, "the cover is gone");
    MUST(umount(path_of("m")));
    CHECK(access(path_of("m/file"), F_OK) == 0, "what was below it is gone");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"files", files}, {"mounts", mounts}, {"nested", nested}, {"covered", covered}, {"denied", denied}};
    object_start(argc, argv);
    if (strcmp(argv[2], "files") == 0) {
        object_write_file("closed", 0, "closed");
        MUST(chmod(path_of("closed"), 0600));
        closed_file = MUST(open(path_of("closed"), O_RDWR | O_APPEND));
    }
    if (strcmp(argv[2], "denied") == 0) enter_denied();
    else enter();
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
