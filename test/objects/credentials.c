// User and group ids (real, effective, saved, file system), supplementary groups, capability sets,
// ambient and bounding sets, securebits, keepcaps, no_new_privs. argv[2]: ids, plain, capabilities.
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

#include "support/object.h"

struct caps {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

static struct caps get_caps(void) {
    struct caps caps = {.header = {.version = _LINUX_CAPABILITY_VERSION_3}};
    MUST(syscall(SYS_capget, &caps.header, caps.data));
    return caps;
}

static void set_ids(void) {
    gid_t groups[] = {7, 11, 70000};
    MUST(setgroups(COUNT_OF(groups), groups));
    MUST(setresgid(1001, 1002, 1003));
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresuid(2001, 2002, 2003));
    setfsuid(2003);
    setfsgid(1003);
}

static void become_plain(void) {
    gid_t groups[] = {65534};
    MUST(setgroups(1, groups));
    MUST(setresgid(65534, 65534, 65534));
    MUST(setresuid(65534, 65534, 65534));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_DUMPABLE, 1));
}

static void limit_capabilities(void) {
    int dropped[] = {CAP_SYS_MODULE, CAP_MKNOD, CAP_AUDIT_WRITE};
    for (size_t i = 0; i < COUNT_OF(dropped); i++) {
        MUST(prctl(PR_CAPBSET_DROP, dropped[i]));
    }
    struct caps caps = get_caps();
    uint32_t kept = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_KILL | 1u << CAP_SETPCAP;
    caps.data[0].inheritable = kept;
    caps.data[0].permitted &= kept | 1u << CAP_CHOWN;
    caps.data[1].permitted = 0;
    caps.data[0].effective = caps.data[0].permitted & ~(1u << CAP_CHOWN);
    caps.data[1].effective = 0;
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP));
    MUST(syscall(SYS_capset, &caps.header, caps.data));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
}

struct credentials {
    uid_t real, effective, saved, fs;
    gid_t real_group, effective_group, saved_group, fs_group;
    int count, securebits, keepcaps, no_new_privs, dumpable;
    uint64_t ambient, bounding;
    gid_t groups[16];
    struct __user_cap_data_struct caps[2];
};

static struct credentials look(void) {
    struct credentials found;
    memset(&found, 0, sizeof found);
    MUST(getresuid(&found.real, &found.effective, &found.saved));
    MUST(getresgid(&found.real_group, &found.effective_group, &found.saved_group));
    found.fs = (uid_t)setfsuid((uid_t)-1);
    found.fs_group = (gid_t)setfsgid((gid_t)-1);
    found.count = MUST(getgroups(16, found.groups));
    found.securebits = MUST(prctl(PR_GET_SECUREBITS));
    found.keepcaps = MUST(prctl(PR_GET_KEEPCAPS));
    found.no_new_privs = MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    found.dumpable = MUST(prctl(PR_GET_DUMPABLE));
    for (int i = 0; i < 41; i++) {
        uint64_t ambient = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1;
        found.ambient |= ambient << i;
        found.bounding |= (uint64_t)(prctl(PR_CAPBSET_READ, i) == 1) << i;
    }
    struct caps caps = get_caps();
    memcpy(found.caps, caps.data, sizeof found.caps);
    return found;
}

#define SAME(field) CHECK_EQUAL(after.field, before.field, #field)

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc > 2 ? argv[2] : "ids";
    if (strcmp(kind, "plain") == 0) {
        become_plain();
    } else if (strcmp(kind, "capabilities") == 0) {
        limit_capabilities();
    } else {
        set_ids();
    }
    struct credentials before = look();
    object_ready_and_wait();
    SABOTAGE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); prctl(PR_SET_DUMPABLE, before.dumpable != 1));
    struct credentials after = look();
    SAME(real); SAME(effective); SAME(saved); SAME(fs);
    SAME(real_group); SAME(effective_group); SAME(saved_group); SAME(fs_group);
    SAME(count); SAME(securebits); SAME(keepcaps); SAME(no_new_privs); SAME(dumpable);
    SAME(ambient); SAME(bounding);
    for (int i = 0; i < before.count; i++) {
        SAME(groups[i]);
    }
    for (int i = 0; i < 2; i++) {
        SAME(caps[i].effective); SAME(caps[i].permitted); SAME(caps[i].inheritable);
    }
    object_pass();
}
