/* Changes a tree without end, as fast as it can, in ways that a copy of it must follow: names that come, go and change
 * places, further names of files, writes by calls and through mappings. Arguments: seed, then folders. What fails is let
 * be: the tree is random. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

/* Files of names that begin with "m" have PAGES pages for good, so that no mapping of them faults. */
enum { PAGE = 4096, PAGES = 40, HELD = 3, LENGTH_MAX = 200000, TWIN_PAGES = 6 * PAGES, FOLDERS_MAX = 4 };

static uint64_t state;
static char **roots;
static uint32_t root_count;
static uint8_t *held[HELD], *twins[FOLDERS_MAX];
static uint8_t bytes[LENGTH_MAX];

static uint32_t dice(uint32_t sides) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 20) % sides;
}

/* In a folder that may not be there. */
static const char *name_of(char kind, uint32_t count) {
    static char paths[4][256];
    static int turn;
    static const char *const inner[] = {"", "", "d0/", "d1/", "d0/d2/"};
    char *path = paths[turn = (turn + 1) % 4];
    snprintf(path, sizeof paths[0], "%s/%s%c%u", roots[dice(root_count)], inner[dice(5)], kind, dice(count));
    return path;
}

static const char *any_file(void) {
    return dice(2) ? name_of('m', 3) : name_of('f', 4);
}

static const char *folder(void) {
    static char paths[2][256];
    static int turn;
    static const char *const names[] = {"d0", "d1", "d0/d2"};
    char *path = paths[turn = !turn];
    snprintf(path, sizeof paths[0], "%s/%s", roots[dice(root_count)], names[dice(3)]);
    return path;
}

static void fill(size_t length) {
    uint32_t value = dice(1u << 30);
    for (size_t at = 0; at < length; at += 512) memcpy(bytes + at, &value, sizeof value);
}

static void make_mapped(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    if (fd < 0) return;
    if (ftruncate(fd, PAGES * PAGE) != 0) abort();
    fill(PAGES * PAGE);
    if (pwrite(fd, bytes, PAGES * PAGE, 0) < 0) abort();
    close(fd);
}

static uint8_t *map(const char *path) {
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return NULL;
    uint8_t *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? NULL : at;
}

static void write_mapped(uint8_t *at) {
    volatile uint8_t sum = 0;
    for (int page = 0; page < PAGES; page++) sum += at[page * PAGE];
    at[dice(PAGES * PAGE)] = (uint8_t)dice(256);
}

static void write_file(void) {
    int own = (int)dice(2);
    const char *path = own ? name_of('f', 4) : name_of('m', 3);
    int flags = own ? (dice(2) ? O_CREAT | O_TRUNC : O_CREAT) : 0;
    int fd = open(path, O_RDWR | flags | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0) return;
    size_t length = dice(own ? LENGTH_MAX : PAGE);
    fill(length);
    off_t at = own ? dice(3) * (off_t)PAGE : dice(PAGES - 1) * (off_t)PAGE;
    if (own && dice(4) == 0 && ftruncate(fd, dice(LENGTH_MAX)) != 0) abort();
    if (pwrite(fd, bytes, length, at) < 0) abort();
    if (dice(4) == 0) fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, PAGES * PAGE / 2);
    close(fd);
}

static void empty(const char *path, int depth) {
    DIR *all = depth < 4 ? opendir(path) : NULL;
    if (all == NULL) return;
    for (struct dirent *entry; (entry = readdir(all)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        if (unlinkat(dirfd(all), entry->d_name, 0) == 0) continue;
        char inner[512];
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        empty(inner, depth + 1);
    }
    closedir(all);
    rmdir(path);
}

static void change_folders(void) {
    const char *path = folder(), *other = folder();
    switch (dice(8)) {
    case 0:
        empty(path, 0);
        break;
    case 1:
        rename(path, other);
        break;
    case 2:
        chmod(path, 0700 + dice(8));
        break;
    default:
        mkdir(path, 0755);
    }
}

static void change_special(void) {
    const char *path = name_of('s', 2), *other = name_of('s', 2);
    char target[16];
    snprintf(target, sizeof target, "%u", dice(1u << 20));
    switch (dice(6)) {
    case 0:
        mkfifo(path, 0600);
        break;
    case 1:
        unlink(path);
        break;
    case 2:
        link(path, other);
        break;
    case 3:
        rename(path, other);
        break;
    default:
        symlink(target, path);
    }
}

static void change_meta(void) {
    const char *path = any_file();
    uint32_t value = dice(1u << 30);
    if (dice(2)) chmod(path, 0600 + dice(64));
    else if (dice(2)) setxattr(path, "user.churn", &value, sizeof value, 0);
    else removexattr(path, "user.churn");
}

/* One that stays mapped, and has another name, or a further one before or after it, that goes and comes back. */
static void twin(uint32_t i) {
    static char names[FOLDERS_MAX] = "tttt";
    char path[256], other[256];
    const char *root = roots[i];
    snprintf(path, sizeof path, "%s/%c-twin", root, names[i]);
    if (dice(8) == 0) {
        char name = "stu"[dice(3)];
        snprintf(other, sizeof other, "%s/%c-twin", root, name);
        if (rename(path, other) == 0) names[i] = name;
    } else {
        snprintf(other, sizeof other, "%s/%c-twin", root, dice(2) ? 'a' : 'z');
        if (unlink(other) != 0) link(path, other);
    }
}

static void write_twin(uint32_t i) {
    twins[i][dice(TWIN_PAGES) * PAGE] = (uint8_t)dice(256);
}

static void make_twin(uint32_t i) {
    char path[256];
    snprintf(path, sizeof path, "%s/t-twin", roots[i]);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    if (fd < 0) abort();
    for (int page = 0; page < TWIN_PAGES; page += PAGES) {
        fill(PAGES * PAGE);
        if (write(fd, bytes, PAGES * PAGE) < 0) abort();
    }
    twins[i] = mmap(NULL, TWIN_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (twins[i] == MAP_FAILED) abort();
    close(fd);
}

static void step(void) {
    int i = (int)dice(HELD);
    char kind = dice(3) ? 'm' : 'f';
    const char *path = name_of(kind, 3), *other = name_of(kind, 3);
    switch (dice(20)) {
    case 0:
        make_mapped(name_of('m', 3));
        break;
    case 1:
        if (held[i] != NULL) munmap(held[i], PAGES * PAGE);
        held[i] = map(name_of('m', 3));
        break;
    case 2: {
        uint8_t *at = map(name_of('m', 3));
        if (at == NULL) break;
        write_mapped(at);
        munmap(at, PAGES * PAGE);
        break;
    }
    case 3:
    case 4:
        write_file();
        break;
    case 5:
    case 6:
    case 7:
        link(path, other);
        break;
    case 8:
    case 9:
        rename(path, other);
        break;
    case 10:
        unlink(path);
        break;
    case 11:
        change_folders();
        break;
    case 12:
        change_special();
        break;
    case 13:
        change_meta();
        break;
    case 14:
    case 15:
    case 16:
        twin(dice(root_count));
        break;
    default:
        if (held[i] != NULL) write_mapped(held[i]);
        write_twin(dice(root_count));
    }
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 2 + FOLDERS_MAX) return 1;
    state = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
    roots = argv + 2;
    root_count = (uint32_t)argc - 2;
    for (uint32_t i = 0; i < root_count; i++) make_twin(i);
    for (uint64_t n = 0;; n++) {
        step();
        if (n == 200) printf("busy\n"), fflush(stdout);
        /* Now and then nothing happens for so long that times tell apart what was before and after. */
        long ns = dice(400) == 0 ? 40000000 : (long)dice(3) * 100000;
        if (ns > 0) nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
    }
}
