// Mounts in a mount namespace of the program's own. argv[2] names the kind.
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "support/mount.h"

static char path_a[PATH_MAX], path_b[PATH_MAX];

static bool holds(const char *name) { return access(path_of(name), F_OK) == 0; }

static void tmpfs(void) {
    make_directory("m");
    mount_tmpfs("m", MS_NOSUID | MS_NODEV, "size=4m,mode=1750");
    object_write_file("m/text", 0, "a file of a tmpfs\n");
    MUST(chown(path_of("m/text"), 12, 34));
    MUST(chmod(path_of("m/text"), 04640));
    MUST(symlink("text", path_of("m/link")));
    MUST(link(path_of("m/text"), path_of("m/hard")));
    MUST(mkfifo(path_of("m/fifo"), 0600));
    make_directory("m/d");
    make_directory("m/d/e");
    int fd = MUST(open(path_of("m/d/e/sparse"), O_RDWR | O_CREAT, 0600));
    MUST(pwrite(fd, "far", 3, 3 << 20));
    struct timespec times[2] = {{1000000000, 5}, {1200000000, 7}};
    MUST(futimens(fd, times));
    MUST(utimensat(AT_FDCWD, path_of("m/d"), times, 0));
    struct stat before;
    MUST(fstat(fd, &before));
    object_ready_and_wait();
    SABOTAGE(MUST(unlink(path_of("m/hard"))));
    struct stat stat_a, stat_b;
    MUST(stat(path_of("m/text"), &stat_a));
    CHECK_EQUAL(stat_a.st_mode, S_IFREG | 04640, "mode");
    CHECK_EQUAL(stat_a.st_uid, 12, "owner");
    CHECK_EQUAL(stat_a.st_gid, 34, "group");
    CHECK_EQUAL(stat_a.st_nlink, 2, "links");
    MUST(stat(path_of("m/hard"), &stat_b));
    CHECK(stat_a.st_ino == stat_b.st_ino, "the hard link is a file of its own");
    char text[64] = "";
    CHECK(readlink(path_of("m/link"), text, 63) == 4 && strcmp(text, "text") == 0, "link to %s", text);
    MUST(stat(path_of("m/fifo"), &stat_a));
    CHECK_EQUAL(stat_a.st_mode, S_IFIFO | 0600, "mode of the FIFO");
    MUST(stat(path_of("m/d"), &stat_a));
    CHECK_EQUAL(stat_a.st_mtim.tv_sec, 1200000000, "time of a directory");
    MUST(stat(path_of("m"), &stat_a));
    CHECK_EQUAL(stat_a.st_mode, S_IFDIR | 01750, "mode of the root");
    CHECK(pread(fd, text, 3, 3 << 20) == 3 && memcmp(text, "far", 3) == 0, "the end of the sparse file");
    MUST(fstat(fd, &stat_a));
    CHECK_EQUAL(stat_a.st_mtim.tv_nsec, 7, "time of a file");
    CHECK_EQUAL(stat_a.st_blocks, before.st_blocks, "blocks of the sparse file");
    CHECK_EQUAL(flags_of("m") & (ST_NOSUID | ST_NODEV | ST_NOEXEC), ST_NOSUID | ST_NODEV, "flags");
    struct statvfs info;
    MUST(statvfs(path_of("m"), &info));
    CHECK_EQUAL(info.f_blocks * info.f_bsize, 4 << 20, "size");
}

static void bind(void) {
    make_directory("a");
    make_directory("a/in");
    make_directory("b");
    object_write_file("a/file", 0, "x");
    object_write_file("a/in/deep", 0, "x");
    object_write_file("over", 0, "");
    MUST(mount(path_of("a"), path_of("b"), NULL, MS_BIND, NULL));
    MUST(mount(NULL, path_of("b"), NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOEXEC | MS_NOATIME, NULL));
    MUST(mount(path_of("a/file"), path_of("over"), NULL, MS_BIND, NULL));
    int fd = MUST(open(path_of("b/in/deep"), O_RDONLY));
    MUST(chdir(path_of("b/in")));
    object_ready_and_wait();
    SABOTAGE(MUST(umount2(path_of("b"), MNT_DETACH)); MUST(chdir("/")));
    CHECK(holds("b/file"), "the bind mount is gone");
    CHECK_EQUAL(flags_of("b") & (ST_RDONLY | ST_NOEXEC | ST_NOATIME), ST_RDONLY | ST_NOEXEC | ST_NOATIME, "flags");
    CHECK_EQUAL(flags_of("a") & ST_RDONLY, 0, "flags of the source");
    CHECK(open(path_of("b/new"), O_CREAT | O_WRONLY, 0600) < 0 && errno == EROFS, "the mount can be written");
    struct stat in, over, file;
    (void)in;
    MUST(stat("deep", &in));
    MUST(stat(path_of("over"), &over));
    MUST(stat(path_of("a/file"), &file));
    CHECK(over.st_ino == file.st_ino, "the file mount is gone");
    CHECK(read(fd, path_a, 1) == 1, "the open file cannot be read");
}

static void propagation(void) {
    for (const char *name = "abcdu"; *name; name++) make_directory((char[]){*name, 0});
    mount_tmpfs("a", 0, NULL);
    make_directory("a/x");
    make_directory("a/y");
    MUST(mount(NULL, path_of("a"), NULL, MS_SHARED, NULL));
    MUST(mount(path_of("a"), path_of("b"), NULL, MS_BIND, NULL)); // a peer
    MUST(mount(path_of("a"), path_of("c"), NULL, MS_BIND, NULL));
    MUST(mount(NULL, path_of("c"), NULL, MS_SLAVE, NULL));
    MUST(mount(path_of("a"), path_of("d"), NULL, MS_BIND, NULL));
    MUST(mount(NULL, path_of("d"), NULL, MS_SLAVE, NULL));
    MUST(mount(NULL, path_of("d"), NULL, MS_SHARED, NULL));
    mount_tmpfs("u", 0, NULL);
    MUST(mount(NULL, path_of("u"), NULL, MS_UNBINDABLE, NULL));
    object_ready_and_wait();
    SABOTAGE(MUST(mount(NULL, path_of("b"), NULL, MS_PRIVATE, NULL)));
    mount_tmpfs("a/x", 0, NULL);
    object_write_file("a/x/seen", 0, "");
    CHECK(holds("b/x/seen"), "a peer does not see a mount");
    CHECK(holds("c/x/seen"), "a slave does not see a mount");
    CHECK(holds("d/x/seen"), "a shared slave does not see a mount");
    mount_tmpfs("c/y", 0, NULL);
    object_write_file("c/y/private", 0, "");
    CHECK(!holds("a/y/private"), "a slave's mount reaches its master");
    mount_tmpfs("b/y", 0, NULL);
    object_write_file("b/y/back", 0, "");
    CHECK(holds("a/y/back") && holds("d/y/back"), "a peer's mount does not reach the others");
    CHECK(mount(path_of("u"), path_of("a/y"), NULL, MS_BIND, NULL) < 0 && errno == EINVAL, "u can be bound");
}

static void covered(void) {
    make_directory("a");
    make_directory("s");
    make_directory("s/low");
    make_directory("s/low/mid");
    object_write_file("s/low/mid/witness", 0, "low");
    mount_tmpfs("a", 0, NULL);
    make_directory("a/low");
    MUST(mount(path_of("s/low"), path_of("a/low"), NULL, MS_BIND, NULL));
    mount_tmpfs("a/low/mid", 0, NULL);
    object_write_file("a/low/mid/upper", 0, "");
    object_ready_and_wait();
    SABOTAGE(MUST(umount2(path_of("a/low"), MNT_DETACH)));
    CHECK(holds("a/low/mid/upper"), "the upper mount is gone");
    MUST(umount2(path_of("a/low/mid"), 0));
    CHECK(holds("a/low/mid/witness"), "what was below the upper mount is gone");
    MUST(umount2(path_of("a/low"), 0));
    CHECK(!holds("a/low/mid"), "the bind mount was there twice");
}

static void deleted(void) {
    make_directory("gone");
    make_directory("here");
    object_write_file("gone.txt", 0, "x");
    object_write_file("here.txt", 0, "y");
    MUST(mount(path_of("gone"), path_of("here"), NULL, MS_BIND, NULL));
    MUST(rmdir(path_of("gone")));
    strcpy(path_b, path_of("here.txt"));
    MUST(mount(path_of("gone.txt"), path_b, NULL, MS_BIND, NULL));
    MUST(chmod(path_of("gone.txt"), 0604));
    MUST(unlink(path_of("gone.txt")));
    object_ready_and_wait();
    SABOTAGE(MUST(umount2(path_of("here"), MNT_DETACH)));
    struct stat stat_a;
    MUST(stat(path_of("here"), &stat_a));
    CHECK_EQUAL(stat_a.st_nlink, 0, "links of the deleted directory");
    CHECK(mkdir(path_of("here/x"), 0700) < 0 && errno == ENOENT, "the directory is alive");
    CHECK(!holds("gone"), "the directory has its name again");
    char text[4] = "";
    int fd = MUST(open(path_of("here.txt"), O_RDONLY));
    CHECK(read(fd, text, 3) == 1 && text[0] == 'x', "the deleted file says %s", text);
    MUST(fstat(fd, &stat_a));
    CHECK_EQUAL(stat_a.st_mode & 0777, 0604, "its mode");
    CHECK(!holds("gone.txt"), "the file has its name again");
}

static void overlay(void) {
    make_directory("base");
    MUST(mount("base", path_of("base"), "tmpfs", 0, NULL));
    for (const char *name = "luwm"; *name; name++) make_directory((char[]){'b', 'a', 's', 'e', '/', *name, 0});
    object_write_file("base/l/low", 0, "low");
    object_write_file("base/l/both", 0, "low");
    char options[3 * PATH_MAX + 64] = "lowerdir=";
    strcat(strcat(strcat(options, path_of("base/l")), ",upperdir="), path_of("base/u"));
    strcat(strcat(options, ",workdir="), path_of("base/w"));
    if (mount("overlay", path_of("base/m"), "overlay", 0, options) != 0) {
        object_put_file("result", "SKIP no overlay here\n");
        exit(0);
    }
    object_write_file("base/m/both", O_TRUNC, "upper");
    MUST(unlink(path_of("base/m/low")));
    object_ready_and_wait();
    SABOTAGE(MUST(umount2(path_of("base/m"), MNT_DETACH)));
    char text[8] = "";
    int fd = MUST(open(path_of("base/m/both"), O_RDONLY));
    CHECK(read(fd, text, 7) == 5 && strcmp(text, "upper") == 0, "the upper file says %s", text);
    CHECK(!holds("base/m/low"), "a whiteout is gone");
    CHECK(holds("base/l/low"), "the lower layer was changed");
}

// An overlay whose writable directory was removed by whoever made it. Nothing is in it, or the working directory is.
static void make_stale(void) {
    make_directory("base");
    for (const char *name = "luwm"; *name; name++) make_directory((char[]){'b', 'a', 's', 'e', '/', *name, 0});
    char options[3 * PATH_MAX + 64] = "lowerdir=";
    strcat(strcat(strcat(options, path_of("base/l")), ",upperdir="), path_of("base/u"));
    strcat(strcat(options, ",workdir="), path_of("base/w"));
    make_directory("there");
    if (mount("overlay", path_of("there"), "overlay", 0, options) != 0) {
        object_put_file("result", "SKIP no overlay here\n");
        exit(0);
    }
    MUST(rmdir(path_of("base/w/work")));
    MUST(rmdir(path_of("base/w")));
    MUST(rmdir(path_of("base/u")));
}

static void stale(void) {
    make_stale();
    object_ready_and_wait();
    SABOTAGE(MUST(umount(path_of("there"))); MUST(rmdir(path_of("there"))));
    CHECK(holds("there"), "the directory is gone");
}

static void stale_used(void) {
    make_stale();
    MUST(chdir(path_of("there")));
    object_ready_and_wait();
    SABOTAGE(MUST(chdir("/")));
    CHECK(getcwd(path_b, sizeof path_b) && strcmp(path_b, path_of("there")) == 0, "the working directory is %s", path_b);
}

// A working directory that something else is mounted over.
static void hidden(void) {
    make_directory("m");
    object_write_file("m/seen", 0, "seen");
    MUST(chdir(path_of("m")));
    mount_tmpfs("m", 0, NULL);
    object_ready_and_wait();
    SABOTAGE(MUST(chdir(path_of("m"))));
    CHECK(access("seen", F_OK) == 0, "the working directory is another one");
    CHECK(!holds("m/seen"), "nothing is mounted over it");
}

static void pivoted(void) {
    make_directory("root");
    MUST(mount("/", path_of("root"), NULL, MS_BIND, NULL));
    MUST(chdir(path_of("root")));
    MUST(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    MUST(mount("scratch", "dev", "tmpfs", MS_NOSUID, "mode=755"));
    MUST(mknod("dev/null", S_IFCHR | 0666, makedev(1, 3)));
    MUST(mkdir("dev/pts", 0755));
    MUST(mount("devpts", "dev/pts", "devpts", 0, "newinstance,mode=620,ptmxmode=666"));
    MUST(mount("scratch", "mnt", "tmpfs", 0, NULL));
    MUST(mkdir("mnt/old", 0700));
    MUST(mkdir("mnt/work", 0700));
    MUST(syscall(SYS_pivot_root, ".", "mnt/old"));
    MUST(chroot("."));
    MUST(umount2("/mnt/old", MNT_DETACH));
    MUST(rmdir("/mnt/old"));
    MUST(chdir("/mnt/work"));
    int null = MUST(open("/dev/null", O_RDWR));
    object_ready_and_wait();
    SABOTAGE(MUST(rmdir("/mnt/work")));
    CHECK(access("/mnt/work", F_OK) == 0 && access("/sys/kernel", F_OK) != 0, "the root is another one");
    CHECK(access("/proc/self/stat", F_OK) == 0, "there is no /proc");
    CHECK(getcwd(path_b, sizeof path_b) && strcmp(path_b, "/mnt/work") == 0, "the working directory is %s", path_b);
    CHECK(write(null, "x", 1) == 1, "cannot write to /dev/null");
    CHECK(open("/dev/pts/ptmx", O_RDWR | O_NOCTTY) >= 0, "ptmx: %s", strerror(errno));
}

// File systems that a system's first process mounts: those that the kernel fills, and empty ones in memory.
static const struct {
    const char *type, *options;
} kernels[] = {{"debugfs", NULL}, {"tracefs", NULL},   {"securityfs", NULL}, {"mqueue", NULL},
               {"fusectl", NULL}, {"devpts", "newinstance,gid=5,mode=620"},  {"pstore", NULL},
               {"bpf", "mode=750"}, {"hugetlbfs", "pagesize=2M"}, {"ramfs", NULL}, {"binfmt_misc", NULL}};

static const char *line_of(const char *mountpoint) {
    static char lines[1 << 16], want[PATH_MAX + 2];
    size_t length = object_read("/proc/self/mountinfo", lines, sizeof lines);
    (void)length;
    snprintf(want, sizeof want, " %.4000s ", mountpoint);
    for (char *line = strtok(lines, "\n"); line; line = strtok(NULL, "\n")) {
        if (strstr(line, want)) return strstr(line, " - ");
    }
    return NULL;
}

static void kernel(void) {
    char before[COUNT_OF(kernels)][256] = {""};
    for (size_t i = 0; i < COUNT_OF(kernels); i++) {
        make_directory(kernels[i].type);
        if (mount("x", path_of(kernels[i].type), kernels[i].type, MS_NOSUID, kernels[i].options) != 0) continue;
        const char *line = line_of(path_of(kernels[i].type));
        CHECK(line != NULL, "%s is not mounted", kernels[i].type);
        snprintf(before[i], sizeof before[i], "%s", line);
    }
    object_ready_and_wait();
    SABOTAGE(MUST(umount(path_of("ramfs"))));
    for (size_t i = 0; i < COUNT_OF(kernels); i++) {
        if (!before[i][0]) continue;
        const char *line = line_of(path_of(kernels[i].type));
        CHECK(line != NULL && strncmp(line, before[i], 255) == 0, "%s: was %s, is %s", kernels[i].type, before[i],
              line ? line : "nothing");
    }
}

static void huge_used(void) {
    make_directory("m");
    if (mount("x", path_of("m"), "hugetlbfs", 0, NULL) != 0) {
        object_put_file("result", "SKIP no hugetlbfs here\n");
        exit(0);
    }
    make_directory("m/used");
    object_ready_and_wait();
    SABOTAGE(MUST(rmdir(path_of("m/used"))));
    CHECK(holds("m/used"), "the folder is gone");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"tmpfs", tmpfs},     {"bind", bind},       {"propagation", propagation}, {"covered", covered},
                 {"deleted", deleted}, {"overlay", overlay}, {"pivoted", pivoted},
                 {"stale", stale},     {"hidden", hidden},   {"stale-used", stale_used}, {"kernel", kernel}, {"huge-used", huge_used}};
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
