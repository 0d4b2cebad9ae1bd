/* The layout shared by the compiler (packages/dumpbin/src/layout.ts) and the restorer. A dump binary is one ELF file:
 *
 *   offset 0       ELF header, one PT_LOAD (read, write, execute) that covers what follows up to the pages
 *   offset 4096    the restorer's code and stack (the "blob"), BLOB_LENGTH bytes
 *   then           struct plan_header, struct plan_op[], data area
 *   pages_offset   page contents, one run after the other
 *
 * At run time blob, header, operations and data stand at `region`, an address range that is free in every process of
 * the tree, followed by zeroed memory up to `region_length`; its last page is shared by all processes of the tree. */
#ifndef FERRY_PLAN_H
#define FERRY_PLAN_H

#include <stdint.h>

#define PLAN_MAGIC 0x31306e616c507946ull /* "FyPlan01" */
#define PLAN_VERSION 1
#define PLAN_PAGE 4096ull
#define PLAN_CHUNK (1ull << 20)

enum plan_kind {
    PLAN_INVALID = 0,
    PLAN_SYSCALL,
    PLAN_FORK,     /* args: pid or 0, clone flags, exit signal; the child goes on at `target`. In nested PID
                      namespaces: further the address of its pids (uint32_t), innermost first, and how many */
    PLAN_THREAD,   /* args: tid, stack top, slots address; further as PLAN_FORK; the thread starts at `target` */
    PLAN_CHAIN,    /* args: descriptor, offset of a dump file: run its program instead of this one */
    PLAN_BARRIER,  /* args: index of the counter in the shared page, how many tasks meet, 1 for one that waits for
                      these without being counted, 1 for the meeting at which the tree begins to run: of that
                      one the counter is `gone` */
    PLAN_READ,     /* args: descriptor, address, length, offset: pread(2) until all is there */
    PLAN_STORE,    /* args: address, value, width in bytes */
    PLAN_JUMP,     /* args: a, b: goes on at `target` when a == b */
    PLAN_LEAVE,    /* args: frame address, `syscall; ret` address, rt_sigreturn trampoline, system call, arg, arg;
                      value: third argument; never returns */
    PLAN_RETURN,   /* args: frame address: rt_sigreturn from here, leaving the region mapped */
    PLAN_EXIT,     /* args: status: exit_group(2) */
    PLAN_RESUMED,  /* tells whoever started the tree that it runs */
    PLAN_MKDEATH,  /* args: wait status to die with: makes a zombie of this process */
    PLAN_LOAD,     /* args: address, width in bytes (4 or 8): what stands there is the result */
    PLAN_CLOCKS,   /* args: address of struct plan_clocks: sets those of the time namespace for children */
    PLAN_WRITE_PROC, /* args: pid, name of a file of /proc/PID, text, length: written in one go */
    PLAN_ENTER,    /* becomes the root in namespaces of its own (struct plan_namespaces) */
    PLAN_ADVISE,   /* args: address of pairs (address, length), how many, advice: madvise(2) of each */
};

enum plan_expect {
    EXPECT_SUCCESS = 0, /* result >= 0 */
    EXPECT_ANY,         /* whatever it is */
    EXPECT_VALUE,       /* result == value */
    EXPECT_OR_ERRNO,    /* result >= 0 or result == -value */
};

struct plan_op {
    uint8_t kind;
    uint8_t expect;
    uint16_t nr;
    uint16_t result;     /* 1 + slot that takes the result, or 0 */
    uint16_t slots_mask; /* bit i: args[i] names a slot; bit 6: value does */
    uint32_t name;       /* offset of the step's name in the data area */
    uint32_t target;     /* index of an operation */
    uint64_t args[6];
    uint64_t value;
};
_Static_assert(sizeof(struct plan_op) == 72, "layout.ts writes 72 bytes");

#define PLAN_ROOT 1u      /* the root of a tree: may be started as a program */
#define PLAN_LOADER 2u    /* no program of its own: takes one over its control descriptor */

struct plan_header {
    uint64_t magic;
    uint32_t version;
    uint32_t flags;
    uint64_t header_hash; /* XXH64 of this structure with this field zero */
    uint64_t elf_hash;    /* of the file's first 4096 bytes */
    uint64_t blob_hash;   /* of the blob, stack and all, as it stands in the file */
    uint64_t ops_hash;
    uint64_t data_hash;
    uint64_t blob_length;
    uint64_t region;
    uint64_t region_length;
    uint64_t ops_offset;  /* from the region's start, as are the next two */
    uint64_t data_offset;
    uint64_t image_length; /* blob, header, operations, data */
    uint64_t op_count;
    uint64_t pages_offset; /* in the file */
    uint64_t pages_length;
    uint64_t chunk_hashes; /* address in the data area: XXH64 of each PLAN_CHUNK of pages */
    uint64_t chunk_count;
    uint64_t info;         /* address of a text for --info */
    uint64_t info_length;
    uint64_t children;     /* address of struct plan_child[] (root only) */
    uint64_t child_count;
    uint32_t pid;
    uint32_t service_base; /* descriptors from here up are the restorer's until the tree runs */
    uint64_t identity;     /* random; the same in all files of one dump */
    uint64_t namespaces;   /* address of struct plan_namespaces; 0 when the root has none of its own */
    uint64_t zero;
};
_Static_assert(sizeof(struct plan_header) == 208, "layout.ts writes 208 bytes");

/* The namespaces that the root is born in. Texts are what is written to files of /proc; they
 * stand behind this structure, at offsets from its start. The
 * program begins outside, gathers what it needs from there, and enters (PLAN_ENTER). Whoever starts it as PID 1 has made
 * the namespaces already: then it begins at `given_entry`, behind the steps that fill them. */
struct plan_namespaces {
    uint32_t flags;     /* CLONE_NEW* */
    uint32_t given_entry;
    uint32_t outer_pid; /* PID of the root one PID namespace further out, taken again when it is free; or 0 */
    uint32_t deny_setgroups;
    uint64_t uid_map, uid_map_length;
    uint64_t gid_map, gid_map_length;
    uint64_t clocks, clocks_length; /* struct plan_clocks, when there is a time namespace */
};
_Static_assert(sizeof(struct plan_namespaces) == 64, "namespaces.ts writes 64 bytes");

/* The clocks of a time namespace, in nanoseconds: CLOCK_MONOTONIC, then CLOCK_BOOTTIME. */
struct plan_clocks {
    int64_t offsets[2]; /* from those of the host where it was captured */
    int64_t shown[2];   /* what they showed then */
    int64_t realtime;   /* CLOCK_REALTIME then */
};
_Static_assert(sizeof(struct plan_clocks) == 40, "clocks.ts writes 40 bytes");

/* Another file of the same dump, in the same folder as PID.dump. */
struct plan_child {
    uint32_t pid;
    uint32_t zero;
    uint64_t header_hash;
};

/* Descriptors above service_base. */
enum plan_service {
    SERVICE_ERROR = 0, /* where failures are told: the standard error of whoever started the tree */
    SERVICE_FOLDER,    /* the folder of the dump files */
    SERVICE_SELF,      /* the dump file of this process, or the program store */
    SERVICE_LEFT,      /* eventfd: counts threads that have left the region */
    SERVICE_CONTROL,   /* the agent's socket, when there is one */
    SERVICE_STDIN,     /* 0, 1 and 2 of whoever started the tree */
    SERVICE_STDOUT,
    SERVICE_STDERR,
    SERVICE_GROUPS,        /* the root directory that control groups are found from */
    SERVICE_PROC,          /* /proc as the root sees it, while the tree has nested namespaces to open */
    SERVICE_OBJECTS = 16, /* created descriptions, one after the other */
};

#define PLAN_COUNTERS 512
#define PLAN_FAILED 0x40000000u

/* The shared page at the region's end. */
struct plan_shared {
    uint32_t failed;
    uint32_t resumed;
    uint32_t mapped; /* the root's user namespace has its id maps */
    uint32_t goes;   /* how many tasks have to meet for the tree to run; 0: none has come there */
    uint32_t gone;   /* how many have: the tree runs once these are as many, and nothing of it before. Counted on by
                        PLAN_FAILED when the restore fails */
    uint32_t counters[PLAN_COUNTERS];
};
_Static_assert(__builtin_offsetof(struct plan_shared, goes) == 12, "layout.ts reads it at 12");
_Static_assert(__builtin_offsetof(struct plan_shared, gone) == 16, "layout.ts reads it at 16");

#endif
