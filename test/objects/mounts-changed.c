// What is in use of mounts that have become read-only since, or are gone from the namespace; a mark on a mount of a nested
// namespace. argv[2] names the kind.
#include <sys/fanotify.h>

#include "support/mount.h"

static char path_a[PATH_MAX];

// Removed files, open for reading only, of mounts that were made read-only since: a tmpfs and a bind mount. One of them
// has another name, one's name is taken.
static void removed(void) {
    static const char *const folders[] = {"t", "b"};
    int fds[2][3], folder[2], fifo[2];
    for (int i = 0; i < 2; i++) {
        char name[16];
        make_directory(folders[i]);
        if (i == 0) mount_tmpfs(folders[i], 0, NULL);
        else MUST(mount(path_of(folders[i]), path_of(folders[i]), NULL, MS_BIND, NULL));
        for (int n = 0; n < 3; n++) {
            snprintf(name, sizeof name, "%s/%d", folders[i], n);
            object_write_file(name, 0, "content");
            fds[i][n] = MUST(open(path_of(name), O_RDONLY));
            if (n == 1) MUST(link(path_of(name), object_path(path_a, i == 0 ? "t/other" : "b/other")));
            MUST(unlink(path_of(name)));
            if (n == 2) object_write_file(name, 0, "another");
        }
        snprintf(name, sizeof name, "%s/d", folders[i]);
        make_directory(name);
        folder[i] = MUST(open(path_of(name), O_RDONLY | O_DIRECTORY));
        MUST(rmdir(path_of(name)));
        snprintf(name, sizeof name, "%s/p", folders[i]);
        MUST(mkfifo(path_of(name), 0640));
        fifo[i] = MUST(open(path_of(name), O_RDWR));
        MUST(unlink(path_of(name)));
        MUST(mount(NULL, path_of(folders[i]), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    }
    object_ready_and_wait();
    SABOTAGE(MUST(lseek(fds[0][0], 1, SEEK_SET)));
    for (int i = 0; i < 2; i++) {
        char text[16], link[64], name[16];
        struct stat info;
        for (int n = 0; n < 3; n++) {
            memset(text, 0, sizeof text);
            CHECK(read(fds[i][n], text, 15) == 7 && strcmp(text, "content") == 0, "file %d of %d says %s", n, i, text);
            MUST(fstat(fds[i][n], &info));
            CHECK_EQUAL(info.st_nlink, n == 1, "names");
            snprintf(link, sizeof link, "/proc/self/fd/%d", fds[i][n]);
            CHECK(open(link, O_RDWR) < 0 && errno == EROFS, "it can be opened to be written");
            snprintf(name, sizeof name, "%s/%d", folders[i], n);
            CHECK_EQUAL(access(path_of(name), F_OK) == 0, n == 2, "there is a file of its name");
        }
        MUST(fstat(folder[i], &info));
        CHECK(S_ISDIR(info.st_mode) && info.st_nlink == 0, "the folder is another one");
        CHECK(write(fifo[i], "x", 1) == 1 && read(fifo[i], text, 1) == 1, "the pipe does not work");
        CHECK((flags_of(folders[i]) & ST_RDONLY) != 0, "the mount is not read-only");
        CHECK(open(path_of(i == 0 ? "t/new" : "b/new"), O_CREAT | O_WRONLY, 0600) < 0, "something can be made");
    }
}

// The file system itself was made read-only since.
static void removed_frozen(void) {
    make_directory("m");
    mount_tmpfs("m", 0, NULL);
    object_write_file("m/file", 0, "still");
    int fd = MUST(open(path_of("m/file"), O_RDONLY));
    // One without any name would keep it writable (fs/namespace.c: sb_prepare_remount_readonly).
    MUST(link(path_of("m/file"), object_path(path_a, "m/other")));
    MUST(unlink(path_of("m/file")));
    MUST(mount(NULL, path_of("m"), NULL, MS_REMOUNT | MS_RDONLY, NULL));
    object_ready_and_wait();
    SABOTAGE(MUST(lseek(fd, 1, SEEK_SET)));
    char text[8] = "";
    CHECK(read(fd, text, 7) == 5 && strcmp(text, "still") == 0, "the file says %s", text);
}

/// A program that is still the one of a root that it has left, where there is none of its files.
static void detached(void) {
    char into[PATH_MAX + 8], part[PATH_MAX + 8];
    make_directory("root");
    mount_tmpfs("root", 0, NULL);
    snprintf(into, sizeof into, "%s%s", path_of("root"), object_directory);
    for (char *end = into + strlen(path_of("root")) + 1; end != NULL; end = strchr(end + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(end - into), into);
        CHECK(mkdir(part, 0755) == 0 || errno == EEXIST, "mkdir %s: %s", part, strerror(errno));
    }
    CHECK(mkdir(into, 0755) == 0 || errno == EEXIST, "mkdir %s: %s", into, strerror(errno));
    MUST(mount(object_directory, into, NULL, MS_BIND, NULL));
    MUST(chdir(path_of("root")));
    MUST(mkdir("old", 0700));
    MUST(mkdir("proc", 0755));
    MUST(mount("proc", "proc", "proc", 0, NULL));
    MUST(syscall(SYS_pivot_root, ".", "old"));
    MUST(chroot("."));
    MUST(umount2("/old", MNT_DETACH));
    MUST(chdir("/"));
    object_ready_and_wait();
    SABOTAGE(MUST(rmdir("/old")));
    CHECK(access("/old", F_OK) == 0, "the folder is gone");
}

/// A mark on a mount, whose path is another mount's outside.
static void marked(void) {
    int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY | O_LARGEFILE);
    make_directory("m");
    mount_tmpfs("m", 0, NULL);
    close(MUST(open(path_of("m/file"), O_RDWR | O_CREAT, 0600)));
    if (fd < 0 || fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, AT_FDCWD, path_of("m")) != 0) {
        object_fail("fanotify: %s", strerror(errno));
    }
    object_child_wait();
    SABOTAGE(MUST(fanotify_mark(fd, FAN_MARK_FLUSH | FAN_MARK_MOUNT, 0, AT_FDCWD, NULL)));
    int file = MUST(open(path_of("m/file"), O_RDONLY));
    struct stat opened, told;
    MUST(fstat(file, &opened));
    struct fanotify_event_metadata event;
    for (bool found = false; !found;) {
        CHECK(read(fd, &event, sizeof event) == sizeof event, "no event: %s", strerror(errno));
        MUST(fstat(event.fd, &told));
        found = told.st_dev == opened.st_dev && told.st_ino == opened.st_ino;
        close(event.fd);
    }
}

static void marked_in_child(void *argument) {
    (void)argument;
    own_namespace();
    marked();
}

static void nested_mark(void) {
    object_fork(marked_in_child, NULL);
    object_ready_and_wait();
    object_join_all();
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"removed", removed}, {"removed-frozen", removed_frozen}, {"detached", detached}, {"marked", nested_mark}};
    object_start(argc, argv);
    if (strcmp(argv[2], "marked") != 0) own_namespace();
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
