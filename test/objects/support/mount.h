// Mounts in a mount namespace of the program's own.
#ifndef FERRY_TEST_MOUNT_H
#define FERRY_TEST_MOUNT_H

#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#include "object.h"

/// A file of the program's folder; good until eight more were asked for.
static inline const char *path_of(const char *name) {
    static char paths[8][PATH_MAX];
    static int next;
    return object_path(paths[next++ % 8], name);
}

static inline void own_namespace(void) {
    if (unshare(CLONE_NEWNS) != 0) {
        object_put_file("result", "SKIP no mount namespaces here\n");
        exit(0);
    }
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
}

static inline void make_directory(const char *name) { MUST(mkdir(path_of(name), 0755)); }

static inline void mount_tmpfs(const char *name, unsigned long flags, const char *options) {
    MUST(mount("scratch", path_of(name), "tmpfs", flags, options));
}

static inline unsigned long flags_of(const char *name) {
    struct statvfs info;
    MUST(statvfs(path_of(name), &info));
    return info.f_flag;
}

#endif
