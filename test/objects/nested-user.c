// User namespaces below the root of the tree: maps, identities, capabilities, and the namespaces that belong to them.
// argv[2] names the kind.
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "support/object.h"

enum { NS_GET_OWNER_UID_ = 0xb704, NS_GET_USERNS_ = 0xb701 };

static void write_to(const char *path, const char *text) {
    int fd = MUST(open(path, O_WRONLY | O_CLOEXEC));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write to %s: %s", path, strerror(errno));
    close(fd);
}

static ino_t inode_of(const char *path) {
    struct stat info;
    MUST(stat(path, &info));
    return info.st_ino;
}

struct identity {
    uid_t uid, euid, suid, fsuid;
    gid_t gid, egid, sgid, groups[8];
    int count;
    struct __user_cap_data_struct caps[2];
    long bounding, securebits;
    char uid_map[512], gid_map[512], setgroups[16];
    uid_t owner;
};

static struct identity look(void) {
    struct identity now;
    memset(&now, 0, sizeof now);
    MUST(getresuid(&now.uid, &now.euid, &now.suid));
    MUST(getresgid(&now.gid, &now.egid, &now.sgid));
    now.count = MUST(getgroups(8, now.groups));
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    MUST(syscall(SYS_capget, &header, now.caps));
    for (int cap = 0; cap < 41; cap++) {
        if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1) now.bounding |= 1l << cap;
    }
    now.securebits = prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
    object_read("/proc/self/uid_map", now.uid_map, sizeof now.uid_map);
    object_read("/proc/self/gid_map", now.gid_map, sizeof now.gid_map);
    object_read("/proc/self/setgroups", now.setgroups, sizeof now.setgroups);
    int fd = MUST(open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
    MUST(ioctl(fd, NS_GET_OWNER_UID_, &now.owner));
    close(fd);
    return now;
}

static void check_identity(const struct identity *before) {
    struct identity now = look();
    CHECK_EQUAL(now.uid, before->uid, "uid");
    CHECK_EQUAL(now.euid, before->euid, "euid");
    CHECK_EQUAL(now.suid, before->suid, "suid");
    CHECK_EQUAL(now.gid, before->gid, "gid");
    CHECK_EQUAL(now.egid, before->egid, "egid");
    CHECK_EQUAL(now.sgid, before->sgid, "sgid");
    CHECK_EQUAL(now.count, before->count, "number of groups");
    for (int i = 0; i < now.count; i++) CHECK_EQUAL(now.groups[i], before->groups[i], "group");
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(now.caps[i].effective, before->caps[i].effective, "effective capabilities");
        CHECK_EQUAL(now.caps[i].permitted, before->caps[i].permitted, "permitted capabilities");
        CHECK_EQUAL(now.caps[i].inheritable, before->caps[i].inheritable, "inheritable capabilities");
    }
    CHECK_EQUAL(now.bounding, before->bounding, "bounding set");
    CHECK_EQUAL(now.securebits, before->securebits, "securebits");
    CHECK(strcmp(now.uid_map, before->uid_map) == 0, "uid_map is %s", now.uid_map);
    CHECK(strcmp(now.gid_map, before->gid_map) == 0, "gid_map is %s", now.gid_map);
    CHECK(strcmp(now.setgroups, before->setgroups) == 0, "setgroups is %s", now.setgroups);
    CHECK_EQUAL(now.owner, before->owner, "owner of the namespace");
}

// Waits until the parent has written the maps: a byte through a pipe that is closed then.
static int mapped[2], made[2];

static void await_maps(void) {
    char byte = 'm';
    CHECK(write(made[1], &byte, 1) == 1, "write: %s", strerror(errno));
    CHECK(read(mapped[0], &byte, 1) == 1, "no maps");
    close(made[0]), close(made[1]), close(mapped[0]), close(mapped[1]);
}

static void enter_nothing(void) {}

struct plan {
    int flags;
    uid_t maker;
    const char *uid_map, *gid_map;
    void (*inside)(void);
    void (*check)(void);
};

static void inner(void *argument) {
    const struct plan *plan = argument;
    if (plan->maker != 0) {
        gid_t groups[2] = {1007, 1008};
        MUST(setgroups(2, groups));
        MUST(setresgid(plan->maker, plan->maker, plan->maker));
        MUST(setresuid(plan->maker, plan->maker, plan->maker));
        MUST(prctl(PR_SET_DUMPABLE, 1));
    }
    MUST(unshare(plan->flags));
    if (plan->uid_map) await_maps();
    plan->inside();
    struct identity before = look();
    ino_t space = inode_of("/proc/self/ns/user");
    object_child_wait();
    SABOTAGE(before.bounding ^= 1);
    CHECK(inode_of("/proc/self/ns/user") != 0 && space != 0, "no namespace");
    check_identity(&before);
    plan->check();
}

static void run(struct plan *plan) {
    MUST(chmod(object_directory, 0777));
    MUST(pipe2(mapped, O_CLOEXEC));
    MUST(pipe2(made, O_CLOEXEC));
    pid_t child;
    if (plan->uid_map == NULL) {
        close(made[0]), close(made[1]), close(mapped[0]), close(mapped[1]);
        child = object_fork(inner, plan);
    } else {
        // A helper writes the maps while object_fork waits for the child.
        pid_t helper = MUST(fork());
        if (helper == 0) {
            char byte, path[64];
            close(made[1]);
            if (read(made[0], &byte, 1) != 1) _exit(1);
            // Its brother, which is in another user namespace.
            char list[256];
            snprintf(path, sizeof path, "/proc/%d/task/%d/children", getppid(), getppid());
            object_read(path, list, sizeof list);
            ino_t own = inode_of("/proc/self/ns/user");
            for (char *at = strtok(list, " "); at; at = strtok(NULL, " ")) {
                pid_t of = atoi(at);
                snprintf(path, sizeof path, "/proc/%d/ns/user", of);
                if (inode_of(path) == own) continue;
                snprintf(path, sizeof path, "/proc/%d/uid_map", of);
                write_to(path, plan->uid_map);
                snprintf(path, sizeof path, "/proc/%d/gid_map", of);
                write_to(path, plan->gid_map);
            }
            CHECK(write(mapped[1], &byte, 1) == 1, "write: %s", strerror(errno));
            _exit(0);
        }
        child = object_fork(inner, plan);
        close(made[0]), close(made[1]), close(mapped[0]), close(mapped[1]);
        int status;
        MUST(waitpid(helper, &status, 0));
        CHECK_EQUAL(status, 0, "status of who writes maps");
    }
    ino_t own = inode_of("/proc/self/ns/user");
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", child);
    object_ready_and_wait();
    CHECK(inode_of("/proc/self/ns/user") == own, "the root is in another user namespace");
    CHECK(inode_of(path) != own, "the child is in the user namespace of the root");
    object_join(child);
}

static void unmapped(void) {
    struct plan plan = {.flags = CLONE_NEWUSER, .inside = enter_nothing, .check = enter_nothing};
    run(&plan);
}

static void become_root(void) {
    MUST(setresgid(0, 0, 0));
    MUST(setresuid(0, 0, 0));
    gid_t groups[] = {1, 2, 3};
    MUST(setgroups(3, groups));
}

static void become_user(void) {
    become_root();
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0));
    MUST(prctl(PR_SET_SECUREBITS, 1 << 0, 0, 0, 0));
    MUST(setresgid(5, 5, 5));
    MUST(setresuid(5, 5, 5));
}

static void root_inside(void) {
    struct plan plan = {.flags = CLONE_NEWUSER, .maker = 1000, .uid_map = "0 100000 1000\n1000 1000 1\n",
        .gid_map = "0 200000 1000\n1000 1000 1\n", .inside = become_root, .check = enter_nothing};
    run(&plan);
}

static void user_inside(void) {
    struct plan plan = {.flags = CLONE_NEWUSER, .uid_map = "0 100000 1000", .gid_map = "0 200000 1000",
        .inside = become_user, .check = enter_nothing};
    run(&plan);
}

static void own_everything(void) {
    become_root();
    MUST(sethostname("owned", 5));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    char path[PATH_MAX];
    MUST(mount("scratch", object_path(path, "m"), "tmpfs", 0, "mode=1777"));
    int fd = MUST(open(object_path(path, "m/file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0640));
    CHECK(write(fd, "content", 7) == 7, "write");
    close(fd);
}

static void check_owned(const char *name) {
    char path[64];
    struct stat mine, owner;
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
    int user = MUST(ioctl(fd, NS_GET_USERNS_));
    MUST(fstat(user, &owner));
    MUST(stat("/proc/self/ns/user", &mine));
    CHECK(owner.st_ino == mine.st_ino, "the %s namespace belongs to another user namespace", name);
    close(user), close(fd);
}

static void check_everything(void) {
    static const char *const names[] = {"uts", "ipc", "net", "mnt", "cgroup"};
    for (size_t i = 0; i < COUNT_OF(names); i++) check_owned(names[i]);
    char host[65];
    MUST(gethostname(host, sizeof host));
    CHECK(strcmp(host, "owned") == 0, "host name %s", host);
    MUST(sethostname("again", 5));
    char text[16] = "";
    char path[PATH_MAX];
    object_read(object_path(path, "m/file"), text, sizeof text);
    CHECK(strcmp(text, "content") == 0, "the file says %s", text);
    struct stat info;
    MUST(stat(path, &info));
    CHECK_EQUAL(info.st_uid, 0, "owner of the file");
    CHECK_EQUAL(info.st_mode & 07777, 0640, "mode of the file");
    int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    MUST(mount("more", object_path(path, "m"), "tmpfs", 0, NULL));
}

static void owning(void) {
    char path[PATH_MAX];
    MUST(mkdir(object_path(path, "m"), 0777));
    struct plan plan = {
        .flags = CLONE_NEWUSER | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWCGROUP,
        .uid_map = "0 100000 1000", .gid_map = "0 200000 1000",
        .inside = own_everything, .check = check_everything};
    run(&plan);
}

/// The first process of a PID namespace, in a user namespace that was made there.
static void user_in_pid(void *argument) {
    (void)argument;
    MUST(unshare(CLONE_NEWUSER));
    struct identity before = look();
    object_child_wait();
    SABOTAGE(before.bounding ^= 1);
    CHECK_EQUAL(getpid(), 1, "its number");
    check_identity(&before);
}

static void pid_around(void) {
    MUST(unshare(CLONE_NEWPID));
    pid_t child = object_fork(user_in_pid, NULL);
    object_ready_and_wait();
    object_join(child);
}

/// The other way round: the PID namespace belongs to the user namespace (unshare -U --pid --fork).
static void owned_init(void *argument) {
    (void)argument;
    object_child_wait();
    SABOTAGE(object_fail("broken on purpose"));
    CHECK_EQUAL(getpid(), 1, "its number");
    check_owned("pid");
}

static void owner(void *argument) {
    (void)argument;
    MUST(unshare(CLONE_NEWUSER | CLONE_NEWPID));
    pid_t child = object_fork(owned_init, NULL);
    object_child_wait();
    object_join(child);
}

static void pid_owned(void) {
    MUST(chmod(object_directory, 0777));
    pid_t child = object_fork(owner, NULL);
    object_ready_and_wait();
    object_join(child);
}

int main(int argc, char **argv) {
    static const struct object_kind kinds[] = {
        {"unmapped", unmapped}, {"root", root_inside}, {"user", user_inside}, {"owning", owning},
        {"pid-around", pid_around}, {"pid-owned", pid_owned}};
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
