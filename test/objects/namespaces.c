// Namespaces of the program's own: host name, IPC settings, several at once. argv[2] names the kind.
#include <grp.h>
#include <sys/utsname.h>

#include "support/spaces.h"

static void own(int flags) {
    if (unshare(flags) != 0) {
        object_put_file("result", "SKIP no such namespaces here\n");
        exit(0);
    }
}

static ino_t inode_of(const char *path) {
    struct stat info;
    MUST(stat(path, &info));
    return info.st_ino;
}

static void uts(void) {
    own(CLONE_NEWUTS);
    MUST(sethostname("inner host", 10));
    MUST(setdomainname("inner.domain", 12));
    object_ready_and_wait();
    SABOTAGE(MUST(sethostname("x", 1)));
    struct utsname names;
    MUST(uname(&names));
    CHECK(strcmp(names.nodename, "inner host") == 0, "host name %s", names.nodename);
    CHECK(strcmp(names.domainname, "inner.domain") == 0, "domain name %s", names.domainname);
}

static void ipc(void) {
    own(CLONE_NEWIPC);
    write_to("/proc/sys/kernel/msgmax", "12345");
    write_to("/proc/sys/kernel/sem", "300 40000 50 600");
    write_to("/proc/sys/fs/mqueue/msg_max", "77");
    object_ready_and_wait();
    SABOTAGE(write_to("/proc/sys/kernel/msgmax", "8192"));
    CHECK_EQUAL(read_number("/proc/sys/kernel/msgmax"), 12345, "msgmax");
    CHECK_EQUAL(read_number("/proc/sys/kernel/sem"), 300, "sem");
    CHECK_EQUAL(read_number("/proc/sys/fs/mqueue/msg_max"), 77, "msg_max");
}

static void several(void) {
    ino_t outer = inode_of("/proc/self/ns/net");
    own(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWCGROUP);
    MUST(sethostname("several", 7));
    int fd = MUST(open("/proc/self/ns/net", O_RDONLY));
    object_ready_and_wait();
    char name[64];
    MUST(gethostname(name, sizeof name));
    SABOTAGE(name[0] = 0);
    CHECK(strcmp(name, "several") == 0, "host name %s", name);
    struct stat info;
    MUST(fstat(fd, &info));
    CHECK(info.st_ino == inode_of("/proc/self/ns/net"), "the descriptor shows another network namespace");
    CHECK(inode_of("/proc/self/ns/net") != outer, "in the network of the host");
}

// A user namespace of the root's own, mapped by somebody outside, with another one's number inside.
static void user(void) {
    enter_mapped(CLONE_NEWUTS, 100);
    gid_t groups[] = {3, 4};
    MUST(setresgid(7, 7, 7));
    MUST(setgroups(2, groups));
    MUST(setresuid(0, 5, 0));
    object_ready_and_wait();
    SABOTAGE(MUST(setresuid(0, 0, 0)));
    uid_t real, effective, saved;
    gid_t got[4];
    MUST(getresuid(&real, &effective, &saved));
    CHECK_EQUAL(real, 0, "uid");
    CHECK_EQUAL(effective, 5, "effective uid");
    CHECK_EQUAL(getgid(), 7, "gid");
    CHECK_EQUAL(getgroups(4, got), 2, "number of groups");
    CHECK_EQUAL(got[1], 4, "second group");
    char map[256] = "";
    object_read("/proc/self/uid_map", map, sizeof map);
    CHECK(strstr(map, "100000") != NULL, "uid_map is %s", map);
    MUST(setresuid(0, 0, 0));
    MUST(sethostname("mine", 4));
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"uts", uts}, {"ipc", ipc}, {"several", several}, {"user", user}};
    object_start(argc, argv);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
