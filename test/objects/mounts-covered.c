// Mounts that cover others, and what is in use below them; file systems that were made read-only. In a mount namespace of
// the program's own. argv[2] names the kind.
#include <sys/sysmacros.h>

#include "support/mount.h"
#include "support/socket.h"

static void check_says(const char *name, const char *wanted) {
    char text[32] = "";
    int fd = open(path_of(name), O_RDONLY);
    CHECK(fd >= 0, "%s cannot be opened: %s", name, strerror(errno));
    CHECK(read(fd, text, 31) == (ssize_t)strlen(wanted) && strcmp(text, wanted) == 0, "%s says %s", name, text);
    close(fd);
}

static void check_connects(int listener, const union address *address) {
    int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(client, &address->any, sizeof address->local));
    int server = MUST(accept4(listener, NULL, NULL, 0));
    char byte = 0;
    CHECK(write(client, "k", 1) == 1 && read(server, &byte, 1) == 1 && byte == 'k', "nothing arrives");
    close(client);
    close(server);
}

// Open files of the file system of the program's directory and of a tmpfs, each below another mount.
static void files(void) {
    MUST(mkdir(path_of("m"), 0755));
    MUST(mkdir(path_of("m/folder"), 0755));
    object_write_file("m/file", 0, "under");
    MUST(mkfifo(path_of("m/fifo"), 0600));
    union address address = {.local = {.sun_family = AF_UNIX}};
    CHECK(strlen(path_of("m/socket")) < sizeof address.local.sun_path, "the path is too long");
    strcpy(address.local.sun_path, path_of("m/socket"));
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    MUST(bind(listener, &address.any, sizeof address.local));
    MUST(chmod(path_of("m/socket"), 0604));
    MUST(listen(listener, 5));
    int file = MUST(open(path_of("m/file"), O_RDWR));
    MUST(lseek(file, 2, SEEK_SET));
    int fifo = MUST(open(path_of("m/fifo"), O_RDWR));
    MUST(write(fifo, "f", 1));
    int folder = MUST(open(path_of("m/folder"), O_RDONLY | O_DIRECTORY));
    mount_tmpfs("m", 0, NULL);
    object_write_file("m/file", 0, "middle");
    int middle = MUST(open(path_of("m/file"), O_RDONLY));
    object_write_file("cover", 0, "upper");
    MUST(mount(path_of("cover"), path_of("m/file"), NULL, MS_BIND, NULL));
    object_ready_and_wait();
    SABOTAGE(MUST(lseek(file, 0, SEEK_SET)));
    check_says("m/file", "upper");
    char text[8] = "";
    CHECK(read(middle, text, 7) == 6 && strcmp(text, "middle") == 0, "the file in the middle says %s", text);
    CHECK(read(file, text, 7) == 3 && memcmp(text, "der", 3) == 0, "the lowest file says %s", text);
    CHECK(read(fifo, text, 7) == 1 && text[0] == 'f', "the pipe says %s", text);
    close(middle);
    MUST(umount(path_of("m/file")));
    check_says("m/file", "middle");
    MUST(umount(path_of("m")));
    check_says("m/file", "under");
    struct stat now, there;
    MUST(fstat(folder, &now));
    MUST(stat(path_of("m/folder"), &there));
    CHECK(now.st_ino == there.st_ino, "the folder is another one");
    MUST(stat(path_of("m/socket"), &there));
    CHECK_EQUAL(there.st_mode & 07777, 0604, "mode of the socket");
    check_connects(listener, &address);
}

// File systems in memory, one upon the other, on shared mounts too.
static void stacked(void) {
    MUST(mkdir(path_of("m"), 0755));
    MUST(mkdir(path_of("n"), 0755));
    mount_tmpfs("m", 0, NULL);
    MUST(mount(NULL, path_of("m"), NULL, MS_SHARED, NULL));
    MUST(mount(path_of("m"), path_of("n"), NULL, MS_BIND, NULL));
    object_write_file("m/first", 0, "first");
    MUST(mkdir(path_of("m/below"), 0755));
    object_write_file("m/below/file", 0, "below");
    MUST(mount("t", path_of("m/below"), "tmpfs", 0, NULL));
    MUST(mkdir(path_of("m/in"), 0755));
    mount_tmpfs("m/in", 0, NULL);
    object_write_file("m/in/second", 0, "second");
    mount_tmpfs("m/in", 0, NULL);
    object_write_file("n/in/third", 0, "third");
    object_ready_and_wait();
    SABOTAGE(MUST(umount(path_of("m/in"))));
    check_says("m/in/third", "third");
    MUST(umount(path_of("n/in")));
    check_says("m/in/second", "second");
    MUST(umount(path_of("m/in")));
    CHECK(access(path_of("n/in/second"), F_OK) != 0, "the shared mounts have come apart");
    check_says("n/first", "first");
    MUST(umount(path_of("m/below")));
    check_says("n/below/file", "below");
}

static void read_only(void) {
    MUST(mkdir(path_of("m"), 0755));
    mount_tmpfs("m", 0, "mode=711");
    object_write_file("m/file", 0, "still");
    int file = MUST(open(path_of("m/file"), O_RDONLY));
    MUST(mount(NULL, path_of("m"), NULL, MS_REMOUNT | MS_RDONLY, NULL));
    object_ready_and_wait();
    SABOTAGE(MUST(mount(NULL, path_of("m"), NULL, MS_REMOUNT, NULL)));
    check_says("m/file", "still");
    CHECK(open(path_of("m/new"), O_CREAT | O_WRONLY, 0600) < 0 && errno == EROFS, "it can be written");
    struct stat info;
    MUST(stat(path_of("m"), &info));
    CHECK_EQUAL(info.st_mode & 07777, 0711, "mode");
    char byte;
    CHECK(read(file, &byte, 1) == 1, "the open file cannot be read");
}

// A device that was opened before the program got a root directory in which there is none.
static void device(void) {
    int null = MUST(open("/dev/null", O_RDWR));
    MUST(mkdir(path_of("root"), 0755));
    MUST(mount("/", path_of("root"), NULL, MS_BIND, NULL));
    MUST(chdir(path_of("root")));
    MUST(mount("proc", "proc", "proc", 0, NULL));
    MUST(mount("t", "dev", "tmpfs", 0, NULL));
    MUST(mkdir("dev/old", 0700));
    MUST(syscall(SYS_pivot_root, ".", "dev/old"));
    MUST(chroot("."));
    MUST(umount2("/dev/old", MNT_DETACH));
    object_ready_and_wait();
    SABOTAGE(MUST(dup2(open("/proc/self/stat", O_RDONLY), null)));
    CHECK(access("/dev/null", F_OK) != 0, "there is a device");
    struct stat info;
    MUST(fstat(null, &info));
    CHECK(S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3), "it is another device");
    CHECK(write(null, "x", 1) == 1, "it cannot be written: %s", strerror(errno));
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"files", files}, {"stacked", stacked}, {"read-only", read_only}, {"device", device}};
    object_start(argc, argv);
    own_namespace();
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
