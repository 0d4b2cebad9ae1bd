// What is in use of mounts that are gone from the namespace; a mark on a mount of a nested
// namespace. argv[2] names the kind.
#include <sched.h>
#include <sys/fanotify.h>
#include <sys/mount.h>

#include "support/object.h"

static const char *path_of(const char *name) {
    static char paths[8][PATH_MAX];
    static int next;
    return object_path(paths[next++ % 8], name);
}

static void own_namespace(void) {
    if (unshare(CLONE_NEWNS) != 0) {
        object_put_file("result", "SKIP no mount namespaces here\n");
        exit(0);
    }
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

static void make_directory(const char *name) { MUST(mkdir(path_of(name), 0755)); }

static void mount_tmpfs(const char *name, unsigned long flags, const char *options) {
    MUST(mount("scratch", path_of(name), "tmpfs", flags, options));
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
    } kinds[] = {{"detached", detached}, {"marked", nested_mark}};
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
