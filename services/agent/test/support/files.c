// Changes files of every kind all the time, and compares all of them with what it remembers: "intact", or "damaged" and
// what. Half of its folders are in a lower layer of its root file system.
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 20, LENGTH_MAX = 40000, MAPPED = 16384 };
enum kind { NOTHING, FILE_, LINK, FOLDER, KINDS };

static struct {
    enum kind kind;
    uint32_t seed;
    size_t length;
} slots[SLOTS];
static uint64_t state = 1;

static uint32_t dice(uint32_t sides) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % sides;
}

static void damaged(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("damaged ");
    vprintf(format, args);
    printf(" (%m)\n");
    va_end(args);
    exit(1);
}

static char byte_of(uint32_t seed, size_t at) {
    return (char)(seed * 31 + at * 7 + at / 251);
}

static void fill(char *bytes, uint32_t seed, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) bytes[i - from] = byte_of(seed, i);
}

static void name_of(int i, char *path) {
    sprintf(path, i % 2 ? "/data/slot%d" : "/lower/slot%d", i);
}

static void put(const char *path, int flags, uint32_t seed, size_t from, size_t to) {
    static char bytes[LENGTH_MAX];
    int fd = open(path, O_WRONLY | flags, 0640);
    fill(bytes, seed, from, to);
    if (fd < 0 || write(fd, bytes, to - from) != (ssize_t)(to - from)) damaged("write of %s", path);
    close(fd);
}

static void check_content(const char *path, uint32_t seed, size_t length) {
    static char bytes[LENGTH_MAX + 1], wanted[LENGTH_MAX];
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
    if (got != (ssize_t)length) damaged("%s has %zd bytes, not %zu", path, got, length);
    fill(wanted, seed, 0, length);
    if (memcmp(bytes, wanted, length) != 0) damaged("content of %s", path);
    close(fd);
}

static void check_slot(int i) {
    char path[64], target[64], inner[80];
    struct stat about;
    name_of(i, path);
    int missing = lstat(path, &about) != 0;
    switch (slots[i].kind) {
    case FILE_:
        if (missing || !S_ISREG(about.st_mode)) damaged("%s is no file", path);
        check_content(path, slots[i].seed, slots[i].length);
        break;
    case LINK: {
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n < 0) damaged("%s is no link", path);
        target[n] = 0;
        if ((uint32_t)strtoul(target, NULL, 10) != slots[i].seed) damaged("%s leads to %s", path, target);
        break;
    }
    case FOLDER: {
        DIR *folder = opendir(path);
        if (folder == NULL) damaged("%s is no folder", path);
        int entries = 0;
        while (readdir(folder) != NULL) entries++;
        closedir(folder);
        if (entries != 3) damaged("%s has %d entries", path, entries - 2);
        sprintf(inner, "%s/only", path);
        check_content(inner, slots[i].seed, slots[i].length);
        break;
    }
    default:
        if (!missing) damaged("%s is there again", path);
    }
}

static void clear(int i) {
    char path[64], command[400];
    name_of(i, path);
    if (slots[i].kind == FOLDER || slots[i].kind == KINDS) {
        DIR *folder = opendir(path);
        for (struct dirent *entry; folder && (entry = readdir(folder));) {
            if (entry->d_name[0] == '.') continue;
            snprintf(command, sizeof command, "%s/%s", path, entry->d_name);
            unlink(command);
        }
        if (folder) closedir(folder);
        rmdir(path);
    } else
        unlink(path);
    slots[i].kind = NOTHING;
}

static void change(int i) {
    char path[64], other[80];
    name_of(i, path);
    uint32_t seed = dice(1 << 30);
    size_t length = dice(LENGTH_MAX);
    if (slots[i].kind == FILE_ && dice(3) > 0) { // the same file, longer, or overwritten
        if (dice(2) && slots[i].length < length) {
            put(path, O_APPEND, slots[i].seed, slots[i].length, length);
            slots[i].length = length;
            return;
        }
        put(path, O_TRUNC, seed, 0, length);
    } else if (slots[i].kind == FILE_ && dice(2)) { // another one in its place
        sprintf(other, "%s.new", path);
        put(other, O_CREAT | O_EXCL, seed, 0, length);
        if (rename(other, path) != 0) damaged("rename of %s", other);
    } else {
        clear(i);
        slots[i].kind = (enum kind)dice(KINDS);
        if (slots[i].kind == FILE_) put(path, O_CREAT | O_EXCL, seed, 0, length);
        if (slots[i].kind == LINK) {
            sprintf(other, "%u", seed);
            if (symlink(other, path) != 0) damaged("symlink %s", path);
        }
        if (slots[i].kind == FOLDER) {
            sprintf(other, "%s/only", path);
            if (mkdir(path, 0755) != 0) damaged("mkdir %s", path);
            put(other, O_CREAT | O_EXCL, seed, 0, length);
        }
    }
    slots[i].seed = seed;
    slots[i].length = length;
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    mkdir("/data", 0755);
    // The lower layer brings folders with other content.
    for (int i = 0; i < SLOTS; i++) slots[i].kind = i % 2 ? NOTHING : KINDS;
    put("/data/mapped", O_CREAT, 0, 0, MAPPED);
    int fd = open("/data/mapped", O_RDWR);
    char *mapped = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    put("/data/one", O_CREAT, 5, 0, 100);
    if (link("/data/one", "/data/two") != 0) damaged("link");
    uint32_t twice = 5, mark = 0;
    for (uint64_t round = 0;; round++) {
        for (int n = 0; n < 3; n++) change((int)dice(SLOTS));
        // Not even the page tables tell the file system of a write to a page that was written through them before.
        for (size_t at = 0; at < MAPPED; at++)
            if (round > 0 && mapped[at] != (char)mark) damaged("mapped at %zu: %d, not %d", at, mapped[at], (char)mark);
        memset(mapped, (char)++mark, MAPPED);
        char through[MAPPED];
        if (pread(fd, through, MAPPED, 0) != MAPPED || memcmp(through, mapped, MAPPED) != 0) damaged("mapped by itself");
        int again = open("/data/mapped", O_RDONLY);
        if (pread(again, through, MAPPED, 0) != MAPPED || memcmp(through, mapped, MAPPED) != 0) damaged("mapped by name");
        close(again);
        put("/data/one", 0, ++twice, 0, 100);
        check_content("/data/two", twice, 100);
        if (round > 40)
            for (int i = 0; i < SLOTS; i++)
                if (slots[i].kind != KINDS) check_slot(i);
        if (round % 25 == 24) printf("intact\n");
        struct timespec pause_time = {.tv_nsec = 2000000};
        nanosleep(&pause_time, NULL);
    }
}
